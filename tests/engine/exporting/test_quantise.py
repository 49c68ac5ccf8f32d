"""``focaldet export --int8``: what is computed with 8 bits, what it costs, and what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from random_runs import TORCHVISION_FCOS, random_detector, random_run
from torchvision.ops import box_iou

from focaldet.checks import InputError
from focaldet.cli import main
from focaldet.data import read_folder
from focaldet.engine.config import TrainConfig
from focaldet.engine.exporting import int8
from focaldet.engine.exporting.export import export_run, make_file
from focaldet.engine.exporting.int8 import FLOAT_PARTS, PHOTOS, Int8, MapsOf, file_ap
from focaldet.engine.exporting.onnx_file import onnx_runner
from focaldet.engine.exporting.quantise import normalise_by_channel, with_8_bits
from focaldet.engine.predict import Detector
from focaldet.engine.train import train
from focaldet.photos.images import read_photo
from focaldet.runtime.onnx_detector import OnnxDetector

NAMES = ("Platelets", "RBC", "WBC")


def measured_file(detector: Detector) -> bytes:
    """The file in float32, with maps."""
    return make_file(detector, "onnx", "detections", maps_too=True)[0]


def weights_of_convolutions(data: bytes) -> dict[bool, set[str]]:
    """By whether they are 8-bit numbers: the names of the weights of all convolutions."""
    model = onnx.load_from_string(data)
    made_by = {name: node for node in model.graph.node for name in node.output}
    types = {constant.name: constant.data_type for constant in model.graph.initializer}
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for node in model.graph.node:
        if node.op_type == "Conv":
            before = made_by.get(node.input[1])
            eight = before is not None and types[before.input[0]] == onnx.TensorProto.INT8
            found[eight].add(re.sub("_(quantized|Dequantize).*", "", node.input[1]))
    return found


@pytest.fixture(scope="module", params=[{}, {"method": "fcos", "backbone": "mobilenetv3_small_050"} | TORCHVISION_FCOS])
def exported(request: pytest.FixtureRequest) -> tuple[Detector, bytes]:
    """A run and its file in float32: a resnet's, and one with squeeze and excitation that takes images in floats."""
    options = {"method": "gflv2", "depth": 2} | request.param
    detector = random_detector(options.pop("method"), **options)
    return detector, measured_file(detector)


@pytest.mark.parametrize("part", FLOAT_PARTS)
@pytest.mark.slow
def test_all_convolutions_have_8_bit_weights_but_those_that_are_kept(
    exported: tuple[Detector, bytes], cells: Path, part: str
) -> None:
    detector, data = exported
    made = with_8_bits(data, detector, read_folder(cells).splits["train"], FLOAT_PARTS[part])
    weights = weights_of_convolutions(made)
    everything = weights_of_convolutions(data)[False]
    head = {name for name in everything if ".head." in name}
    kept = {
        "nothing": set[str](),
        "the head's last convolutions": {name for name in head if "_tower." not in name},
        "the head": head,
    }[part]
    assert weights[False] == kept
    assert weights[True] == everything - kept
    assert len(weights[True]) > 10


@pytest.mark.slow
def test_maps_with_8_bits_are_near_those_of_the_run(exported: tuple[Detector, bytes], cells: Path) -> None:
    detector, data = exported
    records = read_folder(cells).splits["train"]
    made = MapsOf(with_8_bits(data, detector, records, FLOAT_PARTS["nothing"]), detector)
    images = torch.from_numpy(detector.spec.resize(read_photo(records[0].path), detector.spec.size).copy())
    images = images.permute(2, 0, 1)[None]
    with torch.no_grad():
        ours, theirs = made(images), detector.net(images)
    for kind in ("class_logits", "box_outputs"):
        for with_8, with_32 in zip(getattr(ours, kind), getattr(theirs, kind), strict=True):
            error = (with_8 - with_32).square().mean().sqrt()
            assert 0 < error < 0.25 * with_32.std()  # random weights: nothing was trained to bear it


@pytest.mark.slow
def test_one_operator_normalises_as_two_did(exported: tuple[Detector, bytes]) -> None:
    _, data = exported
    model = onnx.load_from_string(data)
    normalise_by_channel(model)
    onnx.checker.check_model(model)
    images = np.random.default_rng(0).integers(256, size=(2, 40, 56, 3))
    kind = model.graph.input[0].type.tensor_type.elem_type
    images = images.astype(np.float32 if kind == onnx.TensorProto.FLOAT else np.uint8)
    before, after = onnx_runner(data)(images), onnx_runner(model.SerializeToString())(images)
    for name, values in before.items():
        if name.startswith("class_logits"):
            np.testing.assert_allclose(after[name], values, atol=1e-3)


@pytest.mark.slow
def test_norms_of_the_head_stay_in_float(exported: tuple[Detector, bytes], cells: Path) -> None:
    detector, data = exported
    made = with_8_bits(data, detector, read_folder(cells).splits["train"], FLOAT_PARTS["nothing"])
    nodes = onnx.load_from_string(made).graph.node
    made_by = {name: node for node in nodes for name in node.output}
    for node in nodes:
        if node.op_type == "Add":
            steps = [made_by[name].op_type for name in node.input if name in made_by]
            assert steps in (["Mul"], ["DequantizeLinear"] * 2) or "DequantizeLinear" not in steps


def falling(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """AP of the file in float32 and of those with 8 bits, each with more in float32 than the one before it."""
    given = iter(values)
    monkeypatch.setattr(int8, "file_ap", lambda *_: next(given))


@pytest.mark.slow
def test_more_is_kept_in_float_until_ap_holds(
    cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = random_run(tmp_path / "run", "fcos", class_names=NAMES)
    falling(monkeypatch, 0.612, 0.6, 0.6021)
    assert main(["export", str(run), "--int8", "--data", str(cells)]) == 0
    said = capsys.readouterr().out
    assert "AP on val (2 photos): 0.612 in float32; 4 train photos" in said
    assert "AP on val (2 photos): 0.600 with 8 bits, -0.012; kept in float32: nothing\n" in said
    assert "AP on val (2 photos): 0.602 with 8 bits, -0.010; kept in float32: the head's last convolutions\n" in said
    assert re.search(r"a photo takes [\d.]+ ms in float32, [\d.]+ ms with 8 bits", said)
    data = (run / "model-int8.onnx").read_bytes()
    assert any("class_logits" in name for name in weights_of_convolutions(data)[False])
    assert OnnxDetector.load(run / "model-int8.onnx").card.int8


@pytest.mark.slow
def test_too_much_loss_is_refused_and_nothing_written(
    cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = random_run(tmp_path / "run", "gfl", class_names=NAMES)
    falling(monkeypatch, 0.6, 0.5, 0.5, 0.58)
    files = sorted(run.iterdir())
    assert main(["export", str(run), "--int8", "--data", str(cells)]) == 2
    assert "8 bits cost 0.020 AP on val (2 photos), more than 0.01, even with the head" in capsys.readouterr().err
    assert sorted(run.iterdir()) == files
    falling(monkeypatch, 0.6, 0.5, 0.5, 0.58)
    assert main(["export", str(run), "--int8", "--data", str(cells), "--ap-loss", "0.03"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--int8"], "--int8 and --data DIR go together"),
        (["--data", "DATA"], "--int8 and --data DIR go together"),
        (["--int8", "--data", "DATA", "--format", "torch"], "--format torch: --int8 makes ONNX files only"),
        (["--int8", "--data", "DATA", "--split", "test"], "no photo in split 'test'; it has train, val"),
        (["--int8", "--data", "DATA", "--ap-loss", "2"], "ap_loss"),
        (["--int8", "--data", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_mistakes_are_one_line_before_any_work(
    cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    run = random_run(tmp_path / "run", "gfl", class_names=NAMES)
    assert main(["export", str(run), *(str(cells) if option == "DATA" else option for option in options)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.count("\n") == 1


def test_photos_of_other_classes_are_refused(cells: Path, tmp_path: Path) -> None:
    run = random_run(tmp_path / "run", "gfl")
    with pytest.raises(InputError, match="its classes are Platelets, RBC, WBC; the run was trained with a, b, c"):
        export_run(run, int8=Int8(cells))


@pytest.mark.slow
def test_ap_without_an_object_is_refused(cells: Path) -> None:
    detector = random_detector("gfl", class_names=NAMES)
    folder = read_folder(cells)
    bare = [
        type(record)(
            **vars(record)
            | {"boxes_xyxy": record.boxes_xyxy[:0], "labels": record.labels[:0], "ignored": record.ignored[:0]}
        )
        for record in folder.splits["val"]
    ]
    folder.splits["val"] = tuple(bare)
    with pytest.raises(InputError, match="no object in split 'val'"):
        file_ap(measured_file(detector), detector, folder, "val")


def test_the_photos_of_the_ranges_are_a_seeded_choice_of_the_train_split(cells: Path) -> None:
    folder = read_folder(cells)
    folder.splits["train"] = folder.splits["train"] * 100
    chosen = Int8(cells).photos(folder)
    assert len(chosen) == PHOTOS
    assert [r.path for r in chosen] == [r.path for r in Int8(cells).photos(folder)]
    assert [r.path for r in chosen] != [r.path for r in Int8(cells, seed=1).photos(folder)]
    assert {r.path for r in chosen} == {r.path for r in folder.splits["train"]}


@pytest.mark.slow
def test_a_trained_run_keeps_its_ap_with_8_bits(
    two_cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned = TrainConfig(
        data=str(two_cells),
        out=str(tmp_path / "run"),
        size=96,
        channels=32,
        head_depth=1,
        epochs=60,
        batch=2,
        ema=0.9,
        augment="none",
        flips="none",
        val_every=60,
        workers=0,
    )
    run = train(learned, say=lambda line: None)
    ap = json.loads((run / "evaluation.json").read_text())["metrics"]["AP"]
    assert ap > 0.4  # there is something to lose
    assert main(["export", str(run), "--int8", "--data", str(two_cells)]) == 0
    said = capsys.readouterr().out
    before, after = re.findall(r"AP on val \(2 photos\): ([\d.]+)", said)
    assert before == f"{ap:.3f}"
    assert float(after) >= ap - 0.0105

    model, detector = OnnxDetector.load(run / "model-int8.onnx"), Detector.load(run)
    assert model.card.int8
    assert [output.name for output in model.session.get_outputs()] == [
        *("boxes_xyxy", "scores", "labels", "side_std_px", "count")
    ]
    photo = next((two_cells / "JPEGImages").iterdir())
    ours, theirs = model.predict(photo), detector.predict(photo)
    sure = theirs.scores > 0.5
    assert int(sure.sum()) >= 5
    overlap = box_iou(theirs.boxes_xyxy[sure], torch.from_numpy(ours.boxes_xyxy[ours.scores > 0.4]))
    assert float((overlap.max(dim=1).values > 0.8).float().mean()) >= 0.9

    assert main(["export", str(run)]) == 0
    assert (run / "model-int8.onnx").stat().st_size < 0.4 * (run / "model.onnx").stat().st_size
