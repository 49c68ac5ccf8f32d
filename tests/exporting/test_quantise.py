"""``focaldet export --int8``: the parts with 8 bits, their cost, and rejected exports."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from random_runs import CELLS, Exported, exported, random_run
from torchvision.ops import box_iou

from focaldet.checks import InputError
from focaldet.cli import main
from focaldet.data.folder import read_folder
from focaldet.data.records import ImageRecord
from focaldet.engine.detector import Detector
from focaldet.exporting import export, int8
from focaldet.exporting.check import Agreement
from focaldet.exporting.export import export_run
from focaldet.exporting.int8 import FLOAT_PARTS, PHOTOS, Int8, MapsOf, file_ap
from focaldet.exporting.network_inputs import WINDOWS, network_inputs
from focaldet.exporting.onnx_file import onnx_runner
from focaldet.exporting.quantise import normalise_by_channel, with_8_bits
from focaldet.photos.images import read_photo
from focaldet.runtime.onnx_detector import OnnxDetector
from focaldet.runtime.windows import Tiling


def weights_of_convolutions(data: bytes) -> dict[bool, set[str]]:
    """Names of the weights of all convolutions, by whether they are 8-bit numbers."""
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


@dataclass(frozen=True)
class Pair:
    """A run, and its file in float32 and with all convolutions in 8 bits."""

    detector: Detector
    data: bytes
    eight: bytes


@pytest.fixture(scope="module")
def photos(cells: Path) -> tuple[ImageRecord, ...]:
    return read_folder(cells).splits["train"]


@pytest.fixture(scope="module", params=["gflv2_with_maps", "raw_fcos"])
def pair(request: pytest.FixtureRequest, photos: tuple[ImageRecord, ...]) -> Pair:
    made: Exported = request.getfixturevalue(request.param)
    detector, data = Detector.load(made.run), made.file.read_bytes()
    return Pair(detector, data, with_8_bits(data, detector, photos, FLOAT_PARTS["nothing"]))


@pytest.mark.parametrize("part", FLOAT_PARTS)
@pytest.mark.slow
def test_all_convolutions_have_8_bit_weights_but_those_that_are_kept(
    pair: Pair, photos: tuple[ImageRecord, ...], part: str
) -> None:
    made = pair.eight if part == "nothing" else with_8_bits(pair.data, pair.detector, photos, FLOAT_PARTS[part])
    weights = weights_of_convolutions(made)
    everything = weights_of_convolutions(pair.data)[False]
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
def test_maps_with_8_bits_are_near_those_of_the_run(pair: Pair, photos: tuple[ImageRecord, ...]) -> None:
    detector, made = pair.detector, MapsOf(pair.eight, pair.detector)
    images = torch.from_numpy(detector.spec.resize(read_photo(photos[0].path), detector.spec.size).copy())
    images = images.permute(2, 0, 1)[None]
    with torch.no_grad():
        ours, theirs = made(images), detector.net(images)
    for kind in ("class_logits", "box_maps"):
        for with_8, with_32 in zip(getattr(ours, kind), getattr(theirs, kind), strict=True):
            error = (with_8 - with_32).square().mean().sqrt()
            assert 0 < error < 0.25 * with_32.std()  # random weights: nothing was trained to bear it


@pytest.mark.slow
def test_one_operator_normalises_as_two_did(pair: Pair) -> None:
    model = onnx.load_from_string(pair.data)
    normalise_by_channel(model)
    onnx.checker.check_model(model)
    images = np.random.default_rng(0).integers(256, size=(2, 40, 56, 3))
    kind = model.graph.input[0].type.tensor_type.elem_type
    images = images.astype(np.float32 if kind == onnx.TensorProto.FLOAT else np.uint8)
    before, after = onnx_runner(pair.data)(images), onnx_runner(model.SerializeToString())(images)
    for name, values in before.items():
        if name.startswith("class_logits"):
            np.testing.assert_allclose(after[name], values, atol=1e-3)


@pytest.mark.slow
def test_norms_of_the_head_stay_in_float(pair: Pair) -> None:
    graph = onnx.load_from_string(pair.eight).graph
    multiplied = {node.output[0] for node in graph.node if node.op_type == "Mul"}
    constants = {constant.name for constant in graph.initializer}
    shifts = [n for n in graph.node if n.op_type == "Add" and multiplied & set(n.input) and constants & set(n.input)]
    assert len(shifts) == 5 * 2 * 2  # levels, towers, norms of each


def falling(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """AP of the float32 file and of the 8-bit files, each with more parts in float32 than the one before."""
    given = iter(values)
    monkeypatch.setattr(int8, "file_ap", lambda *_: next(given))


@pytest.fixture
def run_with_file(gflv2_with_maps: Exported, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose float32 file is already made, in an otherwise empty folder."""
    made = gflv2_with_maps.file.read_bytes(), Agreement(3, 0.0, 0.0, ((100, 75),))
    monkeypatch.setattr(export, "_checked", lambda *_, maps_too: made)
    return gflv2_with_maps.run


@pytest.mark.slow
def test_more_is_kept_in_float_until_ap_holds(
    run_with_file: Path, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    falling(monkeypatch, 0.612, 0.6, 0.6021)
    made = exported(run_with_file, "--int8", "--data", str(cells), file=tmp_path / "model.onnx")
    assert "AP on val (2 photos): 0.612 in float32; calibrating on 4 train photos" in made.said
    assert "AP on val (2 photos): 0.600 with 8 bits, -0.012; kept in float32: nothing\n" in made.said
    last = "the head's last convolutions"
    assert f"AP on val (2 photos): 0.602 with 8 bits, -0.010; kept in float32: {last}\n" in made.said
    assert re.search(r"a photo takes [\d.]+ ms in float32, [\d.]+ ms with 8 bits", made.said)
    assert any("class_logits" in name for name in weights_of_convolutions(made.file.read_bytes())[False])
    assert OnnxDetector.load(made.file).card.int8


@pytest.mark.slow
def test_too_much_loss_is_refused_and_nothing_written(
    run_with_file: Path,
    cells: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    falling(monkeypatch, 0.6, 0.5, 0.5, 0.58)
    command = ["export", str(run_with_file), "--int8", "--data", str(cells), "--out", str(tmp_path / "model.onnx")]
    assert main(command) == 2
    assert "8 bits cost 0.020 AP on val (2 photos), more than 0.01, even with the head" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    falling(monkeypatch, 0.6, 0.58)
    assert main([*command, "--ap-loss", "0.03"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--int8"], "--int8 needs --data DIR"),
        (["--data", "DATA"], "--data needs --int8"),
        (["--int8", "--data", "DATA", "--format", "torch"], "--format torch: --int8 makes ONNX files only"),
        (["--int8", "--data", "DATA", "--split", "test"], "no photo in split 'test'; it has train, val"),
        (["--int8", "--data", "DATA", "--ap-loss", "2"], "ap_loss"),
        (["--int8", "--data", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_mistakes_are_one_line_before_any_work(
    cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    run = random_run(tmp_path / "run", "gfl", class_names=CELLS)
    assert main(["export", str(run), *(str(cells) if option == "DATA" else option for option in options)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.count("\n") == 1


def test_photos_of_other_classes_are_refused(cells: Path, tmp_path: Path) -> None:
    run = random_run(tmp_path / "run", "gfl")
    with pytest.raises(InputError, match="its classes are Platelets, RBC, WBC; the detector knows only a, b, c"):
        export_run(run, int8=Int8(cells))


@pytest.mark.slow
def test_ap_without_an_object_is_refused(raw_fcos: Exported, cells: Path) -> None:
    folder = read_folder(cells)
    bare = [
        type(record)(
            **vars(record)
            | {
                "boxes_xyxy": record.boxes_xyxy[:0],
                "labels": record.labels[:0],
                "ignored": record.ignored[:0],
                "areas": None,
            }
        )
        for record in folder.splits["val"]
    ]
    folder.splits["val"] = tuple(bare)
    with pytest.raises(InputError, match="no object in split 'val'"):
        file_ap(raw_fcos.file.read_bytes(), Detector.load(raw_fcos.run), folder, "val")


def test_a_damaged_photo_is_named_and_gives_no_range(cells: Path, tmp_path: Path) -> None:
    shutil.copytree(cells, tmp_path / "cells")
    folder = read_folder(tmp_path / "cells")
    broken, *others = folder.splits["train"]
    broken.path.write_bytes(broken.path.read_bytes()[:6000])
    said: list[str] = []
    chosen = Int8(tmp_path / "cells").photos(folder, said.append)
    assert {record.path for record in chosen} == {record.path for record in others}
    (line,) = said
    assert line.startswith(f"{broken.path}: damaged image")
    assert line.endswith("; left out")
    for record in others:
        record.path.write_bytes(b"")
    with pytest.raises(InputError, match="none of the train photos chosen for --int8 can be read"):
        Int8(tmp_path / "cells").photos(folder, said.append)


def test_a_run_of_windows_takes_its_ranges_from_windows(tmp_path: Path, photos: tuple[ImageRecord, ...]) -> None:
    detector = Detector.load(random_run(tmp_path / "run", "gfl", class_names=CELLS))
    side = detector.spec.size
    assert {seen.shape[:2] for seen in network_inputs(photos, detector)} == {(round(side * 0.75), side)}
    detector.tiling = Tiling(tile=side, overlap=0, size=side)
    seen = list(network_inputs(photos, detector))
    assert len(seen) == min(WINDOWS, sum(len(detector.tiling.views((640, 480))) for _ in photos))
    whole = [np.asarray(read_photo(record.path)) for record in photos]
    own = {window.tobytes() for window in seen if window.shape == (side, side, 3)}
    places = [
        photo[top : top + side, left : left + side]
        for photo in whole
        for left, top, _, _ in detector.tiling.views((640, 480))[1:]
    ]
    assert own <= {place.tobytes() for place in places}
    assert len(own) > len(photos)


def test_the_photos_of_the_ranges_are_a_seeded_choice_of_the_train_split(cells: Path) -> None:
    folder = read_folder(cells)
    folder.splits["train"] = folder.splits["train"] * 100
    chosen = Int8(cells).photos(folder, print)
    assert len(chosen) == PHOTOS
    assert [r.path for r in chosen] == [r.path for r in Int8(cells).photos(folder, print)]
    assert [r.path for r in chosen] != [r.path for r in Int8(cells, seed=1).photos(folder, print)]
    assert {r.path for r in chosen} == {r.path for r in folder.splits["train"]}


@pytest.mark.slow
def test_a_trained_run_keeps_its_ap_with_8_bits(
    learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = shutil.copytree(learned / "run", tmp_path / "run"), learned / "data"
    ap = json.loads((run / "evaluation.json").read_text())["metrics"]["AP"]
    assert ap > 0.4  # there is something to lose
    assert main(["export", str(run), "--int8", "--data", str(data)]) == 0
    said = capsys.readouterr().out
    before, after = re.findall(r"AP on val \(2 photos\): ([\d.]+)", said)
    assert before == f"{ap:.3f}"
    assert float(after) >= ap - 0.0105

    model, detector = OnnxDetector.load(run / "model-int8.onnx"), Detector.load(run)
    assert model.card.int8
    assert [output.name for output in model.session.get_outputs()] == [
        *("boxes_xyxy", "scores", "labels", "side_std_px", "count")
    ]
    for photo in (data / "JPEGImages").iterdir():
        ours, theirs = model.predict(photo), detector.predict(photo)
        sure = theirs.scores > 0.5
        assert int(sure.sum()) >= 5
        overlap = box_iou(theirs.boxes_xyxy[sure], torch.from_numpy(ours.boxes_xyxy[ours.scores > 0.4]))
        assert float((overlap.max(dim=1).values > 0.8).float().mean()) >= 0.9

    assert (run / "model-int8.onnx").stat().st_size < 0.4 * (run / "model.safetensors").stat().st_size
