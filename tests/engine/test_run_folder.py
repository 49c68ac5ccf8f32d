"""Which runs may use a folder, and the checks of a checkpoint before use."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from focaldet.checks import InputError
from focaldet.engine.callbacks import RunRecorder
from focaldet.engine.checkpoints import BEGUN
from focaldet.engine.config import TrainConfig, load_config
from focaldet.engine.detector import Detector
from focaldet.engine.evaluate import evaluate_run
from focaldet.engine.module import NotFiniteError
from focaldet.engine.resume import resumed_config
from focaldet.engine.spec import read_spec
from focaldet.engine.train import train
from focaldet.files import write_text
from focaldet.folders import alone_in

Again = Callable[..., Path]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("names", [["study.json", "truth.json"], ["config.yaml"], ["notes.txt", ".hidden"]])
def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path, again: Again, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("model: of another program\n")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=f"holds other files .*{names[0]}"):
        again(out=str(tmp_path))
    assert contents(tmp_path) == before


def test_a_folder_that_another_process_trains_into_is_refused(trained: Path, run: Path, again: Again) -> None:
    before = contents(run)
    with alone_in(run, "train"), pytest.raises(InputError, match="another focaldet train is running in this folder"):
        again(out=str(run), resume=True, epochs=9)
    assert contents(run) == before


def test_a_folder_is_free_again_after_a_refusal(tmp_path: Path, again: Again) -> None:
    for _ in range(2):
        with pytest.raises(InputError, match="no such network"):
            again(out=str(tmp_path / "run"), backbone="resnet81")
    assert not (tmp_path / "run").exists()


def test_a_forked_process_does_not_hold_its_parents_folder(tmp_path: Path) -> None:
    import os

    with alone_in(tmp_path / "run", "train"):
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.close(write)
            os.read(read, 1)  # until the parent is done
            os._exit(0)
    try:
        with alone_in(tmp_path / "run", "train"):
            pass
    finally:
        os.close(write)
        os.waitpid(child, 0)
        os.close(read)


def test_a_run_that_is_only_begun_begins_again_without_resume_too(run: Path) -> None:
    for path in run.iterdir():
        if path.name not in BEGUN and path.is_file():
            path.unlink()
    said: list[str] = []
    train(replace(load_config(run / "config.yaml"), out=str(run), epochs=1), say=said.append)
    assert any("starting again" in line for line in said)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_run_without_its_checkpoint_is_not_begun_again(run: Path) -> None:
    (run / "last.ckpt").unlink()  # to save space
    before = contents(run)
    with pytest.raises(InputError, match="nothing to continue; start a new run from its weights with --weights"):
        train(resumed_config(run, {})[0])
    assert contents(run) == before


def test_what_a_killed_run_left_half_written_is_removed(tmp_path: Path) -> None:
    for name in (".last.ckpt.a_b1c2d3.focaldet-part", ".last.ckpt", "last.ckpt.12345678", ".notes.12345678"):
        (tmp_path / name).touch()
    write_text(tmp_path / "last.ckpt.12345678", "")  # as with every file that is written, before the first
    assert sorted(path.name for path in tmp_path.iterdir()) == [".last.ckpt", ".notes.12345678", "last.ckpt.12345678"]


def first_moment(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = checkpoint["optimizer_states"][0]["state"][0]
    return state


def other_shape(checkpoint: dict[str, Any]) -> None:
    first_moment(checkpoint)["exp_avg"] = torch.zeros(1)


def other_type(checkpoint: dict[str, Any]) -> None:
    first_moment(checkpoint)["exp_avg_sq"] = first_moment(checkpoint)["exp_avg_sq"].double()


def overlapping(checkpoint: dict[str, Any]) -> None:
    moments = first_moment(checkpoint)
    moments["exp_avg"] = torch.zeros(()).expand(moments["exp_avg"].shape)


def without_a_moment(checkpoint: dict[str, Any]) -> None:
    del first_moment(checkpoint)["step"]


def not_finite_moment(checkpoint: dict[str, Any]) -> None:
    first_moment(checkpoint)["exp_avg"].fill_(math.inf)


def not_finite_weight(checkpoint: dict[str, Any]) -> None:
    next(iter(checkpoint["state_dict"].values())).view(-1)[0] = math.nan


def other_parameters(checkpoint: dict[str, Any]) -> None:
    checkpoint["optimizer_states"][0]["param_groups"][0]["params"].reverse()


def no_number(checkpoint: dict[str, Any]) -> None:
    checkpoint["optimizer_states"][0]["param_groups"][0]["betas"] = ("a", None)


def two_optimisers(checkpoint: dict[str, Any]) -> None:
    checkpoint["optimizer_states"] *= 2


def epoch_in_words(checkpoint: dict[str, Any]) -> None:
    checkpoint["epoch"] = "three"


def no_callbacks(checkpoint: dict[str, Any]) -> None:
    checkpoint["callbacks"] = None


def names_of_numbers(checkpoint: dict[str, Any]) -> None:
    checkpoint["callbacks"]["RunRecorder"]["class_names"] = [1, 2, 3]


def loops_without_counts(checkpoint: dict[str, Any]) -> None:
    checkpoint["loops"]["fit_loop"]["epoch_progress"] = {"current": []}


def callback_without_its_path(checkpoint: dict[str, Any]) -> None:
    (key,) = (key for key in checkpoint["callbacks"] if key.startswith("ModelCheckpoint"))
    del checkpoint["callbacks"][key]["best_model_path"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (other_shape, r"exp_avg of parameter 0 is \(1,\) float32, expected"),
        (other_type, "exp_avg_sq of parameter 0 is .* float64, expected"),
        (overlapping, "exp_avg of parameter 0 is .*overlapping, expected"),
        (without_a_moment, "parameter 0: expected step"),
        (not_finite_moment, "'exp_avg of parameter 0' contains infinity"),
        (not_finite_weight, "'net.* contains infinity or NaN"),
        (other_parameters, "a parameter group does not hold"),
        (no_number, "not finite numbers"),
        (two_optimisers, "expected one"),
        (epoch_in_words, "epoch: expected int, got str"),
        (no_callbacks, "callbacks: expected dict"),
        (names_of_numbers, "class_names: expected str, got int"),
        (loops_without_counts, r"fit_loop\.epoch_progress: 'total' is missing"),
        (callback_without_its_path, "ModelCheckpoint: 'best_model_path' is missing"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_damaged_checkpoint_is_one_line_that_names_the_part(
    run: Path, damage: Callable[[dict[str, Any]], None], words: str
) -> None:
    file = run / "last.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    damage(checkpoint)
    torch.save(checkpoint, file)
    metrics = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match=f"^{file}: .*{words}") as caught:
        train(resumed_config(run, {"epochs": 9})[0], say=lambda line: None)
    assert "\n" not in str(caught.value)
    assert (run / "metrics.jsonl").read_bytes() == metrics


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_by_all_that_read_a_run(
    run: Path, cells: Path, again: Again, value: float
) -> None:
    weights = load_file(run / "model.safetensors")
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    weights[name].view(-1)[-1] = value
    save_file(weights, run / "model.safetensors")
    for read in (
        lambda: Detector.load(run),
        lambda: evaluate_run(run, cells, "val"),
        lambda: again(out=str(run / "tuned"), weights=str(run)),
    ):
        with pytest.raises(InputError, match=f"model.safetensors: '{name}' contains infinity"):
            read()


def test_weights_that_are_not_finite_are_neither_measured_nor_kept(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last step no loss is looked at any more."""

    def break_weights(recorder: RunRecorder, trainer: Any, module: Any, *others: Any) -> None:
        with torch.no_grad():
            next(module.net.parameters()).fill_(math.inf)

    monkeypatch.setattr(RunRecorder, "on_train_batch_end", break_weights)
    with pytest.raises(NotFiniteError, match=r"step 1: net\..* contains infinity.*lower --lr"):
        train(replace(config, epochs=1, batch=4), say=lambda line: None)
    assert not {"last.ckpt", "model.json"} & {path.name for path in Path(config.out or "").iterdir()}


@pytest.mark.parametrize("name", ["size", "channels", "head_depth", "num_bins"])
def test_a_size_that_cannot_be_read_cannot_be_trained(run: Path, cells: Path, name: str) -> None:
    model = json.loads((run / "model.json").read_text())
    (model["method_options"] if name == "num_bins" else model)[name] = 10**5
    (run / "model.json").write_text(json.dumps(model))
    with pytest.raises(InputError) as of_the_file:
        read_spec(run / "model.json")
    with pytest.raises(InputError) as of_the_option:
        TrainConfig(data=str(cells), **{name: 10**5})  # type: ignore[arg-type]
    assert f"{name}: expected" in str(of_the_option.value)
    assert str(of_the_file.value).endswith(str(of_the_option.value))


@pytest.mark.parametrize("line", ["minutes: .inf", "minutes: .nan", "ema: .nan", "minutes: 1e400"])
def test_numbers_that_are_none_are_refused_in_a_config(run: Path, line: str) -> None:
    file = run / "config.yaml"
    file.write_text(f"data: photos\n{line}\n")
    with pytest.raises(InputError, match=line.partition(":")[0]):
        load_config(file)
