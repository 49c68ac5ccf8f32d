from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from focaldet.checks import InputError
from focaldet.commands import train_config
from focaldet.engine.beginning import first_detector
from focaldet.engine.config import TrainConfig
from focaldet.engine.detector import Detector
from focaldet.engine.finetune import network_options
from focaldet.engine.spec import save_model, spec_of
from focaldet.engine.train import train
from focaldet.models.detector import Variant
from focaldet.models.postprocess import PostProcessConfig
from focaldet.photos.resize import Resize

NAMES = ("Platelets", "RBC", "WBC")

Begun = tuple[dict[str, torch.Tensor], list[str]]


@pytest.fixture
def begin(config: TrainConfig, trained: Path) -> Callable[..., Begun]:
    """The first weights of a run that starts from the trained one, and the printed lines about them."""

    def call(class_names: tuple[str, ...] = NAMES, run: Path = trained, **changes: Any) -> Begun:
        said: list[str] = []
        _, net, _ = first_detector(replace(config, weights=str(run), **changes), class_names, say=said.append)
        return net.state_dict(), said

    return call


def make_run(config: TrainConfig, out: Path, **spec_changes: Any) -> Path:
    """An untrained run."""
    torch.manual_seed(7)
    spec = replace(spec_of(config, NAMES), **spec_changes)
    net, _ = spec.build()
    save_model(out, spec, net)
    return out


def test_a_run_of_the_same_classes_begins_with_all_its_weights(begin: Callable[..., Begun], trained: Path) -> None:
    weights, said = begin()
    theirs = load_file(trained / "model.safetensors")
    assert weights.keys() == theirs.keys()
    assert all(torch.equal(weights[name], theirs[name]) for name in theirs)
    assert said == [f"starting from the weights of {trained}: gfl, mobilenetv3_small_050"]


def test_classes_are_taken_by_name_and_the_others_begin_anew(begin: Callable[..., Begun], trained: Path) -> None:
    weights, said = begin(("WBC", "parasite", "Platelets", "dust"))
    theirs = load_file(trained / "model.safetensors")
    for part in ("weight", "bias"):
        own, there = weights[f"head.class_logits.{part}"], theirs[f"head.class_logits.{part}"]
        assert torch.equal(own[[0, 2]], there[[2, 0]])
    assert torch.allclose(weights["head.class_logits.bias"][[1, 3]], torch.tensor(0.01).logit())
    assert not torch.isin(weights["head.class_logits.weight"][[1, 3]], theirs["head.class_logits.weight"]).any()
    others = [name for name in theirs if "class_logits" not in name]
    assert all(torch.equal(weights[name], theirs[name]) for name in others)
    assert said[1:] == ["  re-initialised classes: parasite, dust", "  dropped classes: RBC"]


@pytest.mark.parametrize("method", ["retinanet", "fcos", "atss", "gflv2"])
def test_another_method_keeps_what_means_the_same_in_it(
    begin: Callable[..., Begun], trained: Path, method: str
) -> None:
    weights, said = begin(method=method)
    theirs = load_file(trained / "model.safetensors")
    shared = [name for name in theirs if not name.startswith("head.") or "tower" in name]
    assert all(torch.equal(weights[name], theirs[name]) for name in shared)
    assert sum("tower" in name for name in shared) == 6
    same_classes = torch.equal(weights["head.class_logits.bias"][:3], theirs["head.class_logits.bias"])
    assert same_classes == (method != "retinanet")
    same_boxes = method == "gflv2" and torch.equal(
        weights["head.box_outputs.weight"], theirs["head.box_outputs.weight"]
    )
    assert same_boxes == (method == "gflv2")
    lines = "\n".join(said)
    assert ("re-initialised: class outputs; retinanet has 9 per location, gfl 1" in lines) == (method == "retinanet")
    assert (f"re-initialised: box outputs; {method} encodes boxes differently from gfl" in lines) == (method != "gflv2")
    assert ("re-initialised: head.centerness" in lines) == (method in ("fcos", "atss"))
    assert ("re-initialised: head.quality" in lines) == (method == "gflv2")


def test_a_branch_that_has_no_place_is_said_to_be_left_out(
    begin: Callable[..., Begun], config: TrainConfig, tmp_path: Path
) -> None:
    run = make_run(replace(config, method="atss"), tmp_path / "atss")
    weights, said = begin(run=run, method="atss", class_loss="quality_focal")
    assert "  dropped: head.centerness" in said
    assert torch.equal(
        weights["head.box_outputs.weight"], load_file(run / "model.safetensors")["head.box_outputs.weight"]
    )
    _, said = begin(run=run, method="fcos")
    assert not [line for line in said if "centerness" in line]  # both have it


def test_other_bins_begin_anew(begin: Callable[..., Begun]) -> None:
    weights, said = begin(num_bins=9)
    assert weights["head.box_outputs.bias"].shape == (36,)
    assert "  re-initialised: box outputs; 36 numbers per box, not 68" in said


@pytest.mark.slow
def test_a_network_of_another_code_is_trained_with_our_lattice_and_photos_and_that_is_said(
    config: TrainConfig, tmp_path: Path
) -> None:
    """As ``focaldet import`` leaves torchvision's FCOS."""
    config = replace(config, method="fcos", out=str(tmp_path / "tuned"), epochs=1)
    variant = Variant(tower_bias=True, pad_to=32)
    run = make_run(
        config,
        tmp_path / "imported",
        method_options={"distances": "relu"},
        network=variant,
        postprocess=PostProcessConfig(score_threshold=0.2, keep_empty=True, offset=0.0, steps="fitted"),
        resize=Resize(short_side=48, resampling="torchvision"),
    )
    said: list[str] = []
    tuned = train(replace(config, weights=str(run)), say=said.append)
    lines = "\n".join(said)
    assert "locations were fitted to each image; now they lie at multiples of the strides" in lines
    assert "scaled to a shorter side of 48 px (torchvision); now to a longer side of 64 px" in lines
    spec = Detector.load(tuned).spec
    assert (spec.network, spec.resize, spec.postprocess) == (variant, Resize(), PostProcessConfig(offset=0.0))
    assert spec.method_options["distances"] == "relu"
    assert (tuned / "evaluation.json").exists()


def test_locations_counted_from_the_middles_of_pixels_are_said_to_move(
    begin: Callable[..., Begun], config: TrainConfig, tmp_path: Path
) -> None:
    run = make_run(config, tmp_path / "old", postprocess=PostProcessConfig(shift_px=-0.5, last_pixel=True))
    _, said = begin(run=run)
    assert said[1:] == ["  locations and boxes referred to pixel centres; now they refer to pixel edges"]


@pytest.mark.parametrize(
    ("option", "value"), [("backbone", "resnet18"), ("levels", "p2-p6"), ("channels", 24), ("head_depth", 2)]
)
def test_another_network_is_refused(begin: Callable[..., Begun], trained: Path, option: str, value: object) -> None:
    there = {"backbone": "mobilenetv3_small_050", "levels": "p3-p7", "channels": 16, "head_depth": 1}[option]
    words = f"--{option.replace('_', '-')} {value}: the network of --weights {trained} has {there}, and its weights"
    with pytest.raises(InputError, match=words):
        begin(**{option: value})


def test_a_run_that_is_not_there_is_refused_and_nothing_is_left(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"--weights {tmp_path / 'nothing'}: no such run folder"):
        train(replace(config, weights=str(tmp_path / "nothing")), say=lambda line: None)
    assert not Path(config.out or "").exists()


def test_two_sources_of_the_backbones_weights_are_refused(config: TrainConfig, trained: Path) -> None:
    with pytest.raises(InputError, match="weights: includes the backbone's weights"):
        replace(config, weights=str(trained), pretrained=True)


def test_options_that_are_not_given_are_those_of_the_run(trained: Path, config: TrainConfig) -> None:
    options = network_options(trained)
    assert options["method"] == "gfl"
    assert (options["backbone"], options["size"], options["channels"]) == ("mobilenetv3_small_050", 64, 16)
    chosen = train_config(data=config.data, weights=str(trained), size=96)
    assert (chosen.backbone, chosen.channels, chosen.head_depth, chosen.size) == ("mobilenetv3_small_050", 16, 1, 96)
    other = train_config(data=config.data, weights=str(trained), method="fcos")
    assert (other.method, other.class_loss, other.backbone) == ("fcos", "default", "mobilenetv3_small_050")
    with pytest.raises(InputError, match="--weights nowhere: no such run folder"):
        train_config(data=config.data, weights="nowhere")


@pytest.mark.slow
def test_fine_tuning_is_the_same_to_the_bit_when_done_again(
    trained: Path, again: Callable[..., Path], tmp_path: Path
) -> None:
    runs = [again(weights=str(trained), epochs=1, out=str(tmp_path / name)) for name in ("one", "two")]
    one, two = (load_file(run / "model.safetensors") for run in runs)
    assert all(torch.equal(one[name], two[name]) for name in one)
