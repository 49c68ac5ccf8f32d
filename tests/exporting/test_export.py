"""All of ``focaldet export``: the file of every method detects the same as the run; every fault is one line."""

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from random_runs import MMDETECTION, TORCHVISION, Exported, exported, random_run
from torch import nn

import focaldet
from focaldet.checks import InputError
from focaldet.cli import main
from focaldet.engine.detector import Detector, as_arrays
from focaldet.exporting import export, same_padding
from focaldet.exporting.check import Agreement, Reader
from focaldet.exporting.graph import head_outputs
from focaldet.exporting.onnx_file import onnx_runner
from focaldet.exporting.quantise import without_maps
from focaldet.exporting.torch_file import CARD_FILE
from focaldet.exporting.tracing import trace
from focaldet.models.detector import DenseDetector
from focaldet.runtime.card import ModelCard
from focaldet.runtime.model import DetectionArrays, Model
from focaldet.runtime.onnx_detector import OnnxDetector
from focaldet.structures import Detections

SIZES = [(64, 48), (101, 77), (77, 101), (300, 40), (3, 5), (640, 480)]
"""Width and height of photos; none but the first is a multiple of a stride."""

MAX_BOX_DIFFERENCE_PX = 0.05

SURE_OF_LITTLE = replace(MMDETECTION["postprocess"], score_threshold=0.4)
"""A threshold that leaves photos without detections."""


def blots(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """A photo of soft colours."""
    coarse = np.random.default_rng(seed).integers(256, size=(12, 16, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


def sides(found: DetectionArrays) -> np.ndarray:
    return found.boxes_xyxy if found.side_std_px is None else np.hstack([found.boxes_xyxy, found.side_std_px])


def assert_same(found: DetectionArrays, expected: DetectionArrays, scale: float = 1.0) -> None:
    """The same boxes in any order, since scores that agree to six digits may come in either order.

    Args:
        scale: pixels of the photo per pixel of the network input.
    """
    assert len(found) == len(expected)
    apart = np.abs(sides(found)[:, None] - sides(expected)).max(axis=2, initial=0) / (MAX_BOX_DIFFERENCE_PX * scale)
    apart = np.maximum(apart, np.abs(found.scores[:, None] - expected.scores) / 1e-4)
    apart[found.labels[:, None] != expected.labels] = np.inf
    nearest = apart.argmin(axis=1) if len(found) else np.zeros(0)
    assert len(set(nearest)) == len(found)
    assert (apart.min(axis=1, initial=np.inf) < 1).all()


def assert_same_on_photos(model: Model, run: Path, *, some_without: bool = False) -> None:
    """Single photos of many sizes, batches of one size, and optionally photos without a detection."""
    detector, counts = Detector.load(run), []
    for size in SIZES:
        white = np.full((size[1], size[0], 3), 255, np.uint8)  # equal scores everywhere: any of them may stay
        photos = [blots(size), blots(size, 1), white if some_without else blots(size, 2)]
        seen = [model.prepare(photo) for photo in photos]
        expected = [detector.detect([detector.prepare(photo)])[0] for photo in photos]
        scale = max(1.0, max(seen[0].photo_size) / max(seen[0].size))
        for ours, theirs in zip(model.detect(seen), expected, strict=True):
            assert_same(ours, theirs, scale)
        assert_same(model.detect(seen[:1])[0], expected[0], scale)
        counts += list(map(len, expected))
    assert sum(counts) > (10 if some_without else 50)
    assert 0 in counts or not some_without


def found_by_run(detector: Detector, images: np.ndarray) -> list[Detections]:
    """Detections in images ``(B, H, W, 3)`` of the network input."""
    with torch.no_grad():
        outputs = detector.net(torch.tensor(images).permute(0, 3, 1, 2).contiguous())
    found: list[Detections] = detector.postprocess(outputs, [images.shape[1:3]] * len(images))
    return found


def assert_whole(made: Exported, outputs: str) -> None:
    """The file describes everything needed to use it, and nothing about the machine that made it."""
    spec, model = Detector.load(made.run).spec, onnx.load(made.file)
    (opset,) = model.opset_import
    assert (opset.domain, opset.version) == ("", 18)
    onnx.checker.check_model(model, full_check=True)
    (images,) = model.graph.input
    axes = [axis.dim_param or axis.dim_value for axis in images.type.tensor_type.shape.dim]
    assert axes == ["batch", "height", "width", 3]
    floats = spec.resize.resampling == "torchvision"
    assert images.type.tensor_type.elem_type == (onnx.TensorProto.FLOAT if floats else onnx.TensorProto.UINT8)
    (entry,) = model.metadata_props
    card = ModelCard.from_json(entry.value)
    assert (entry.key, card.outputs, card.class_names, card.method) == (
        "focaldet",
        outputs,
        spec.class_names,
        spec.method,
    )
    assert (card.size, card.resize, card.strides) == (spec.size, spec.resize, (8, 16, 32, 64, 128))
    assert_constant_where_openvino_wants_it(model.graph)
    assert str(Path(export.__file__).parents[1]).encode() not in made.file.read_bytes()
    assert str(made.run).encode() not in made.file.read_bytes()


def assert_constant_where_openvino_wants_it(graph: onnx.GraphProto) -> None:
    """Constant padding and a constant last axis of the boxes: otherwise OpenVINO gets only pieces of the network."""
    constants = {constant.name: onnx.numpy_helper.to_array(constant) for constant in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    assert all(node.input[1] in constants for node in graph.node if node.op_type == "Pad")
    shapes = [made_by[node.input[0]].input[1] for node in graph.node if node.op_type == "NonMaxSuppression"]
    assert all(shape in constants and constants[shape][-1] == 4 for shape in shapes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options"), [("retinanet", TORCHVISION), ("atss", MMDETECTION | {"postprocess": SURE_OF_LITTLE})]
)
def test_imported_networks_are_exported_as_they_are(tmp_path: Path, method: str, options: dict) -> None:
    made = exported(random_run(tmp_path / "run", method, **options))
    assert made.difference_px < MAX_BOX_DIFFERENCE_PX
    assert_whole(made, "detections")
    assert_same_on_photos(OnnxDetector.load(made.file), made.run, some_without=options["postprocess"] is SURE_OF_LITTLE)


@pytest.mark.slow
def test_gfl_is_exported_with_its_deviations(gfl: Exported) -> None:
    assert gfl.difference_px < MAX_BOX_DIFFERENCE_PX
    assert f"use it: focaldet predict {gfl.file} PHOTO" in gfl.said
    assert_whole(gfl, "detections")
    assert_same_on_photos(OnnxDetector.load(gfl.file), gfl.run)


@pytest.mark.slow
def test_a_file_that_gave_maps_too_has_the_detections_of_gflv2(gflv2_with_maps: Exported, tmp_path: Path) -> None:
    run, file = gflv2_with_maps.run, tmp_path / "model.onnx"
    file.write_bytes(without_maps(gflv2_with_maps.file.read_bytes(), Detector.load(run)))
    assert_whole(Exported(run, file, said=""), "detections")
    assert_same_on_photos(OnnxDetector.load(file), run)


@pytest.mark.slow
def test_without_suppression_a_box_of_every_location_is_given_also_with_the_padding_of_tensorflow(
    tmp_path: Path,
) -> None:
    run, lines = random_run(tmp_path / "run", "fcos", backbone="tf_mobilenetv3_small_minimal_100", depth=2), list[str]()
    file = focaldet.Run(run).export(outputs="sites", say=lines.append)  # as `focaldet export --no-nms`
    assert file == run / "model-sites.onnx"
    assert (
        file.stat().st_size < (run / "model.safetensors").stat().st_size + 500_000
    )  # the padding adds next to nothing
    made = Exported(run, file, "\n".join(lines))
    assert made.difference_px < MAX_BOX_DIFFERENCE_PX
    assert_whole(made, "sites")
    model = OnnxDetector.load(made.file)
    assert {output.name for output in model.session.get_outputs()} == {"boxes_xyxy", "scores"}
    assert not [node for node in onnx.load(made.file).graph.node if node.op_type == "NonMaxSuppression"]
    assert_same_on_photos(model, made.run)


@pytest.mark.slow
def test_raw_maps_hold_the_detections(raw_fcos: Exported) -> None:
    assert raw_fcos.difference_px < MAX_BOX_DIFFERENCE_PX
    assert "use it" not in raw_fcos.said
    assert_whole(raw_fcos, "raw")
    with pytest.raises(InputError, match="raw maps, which are for other programs"):
        OnnxDetector.load(raw_fcos.file)
    detector = Detector.load(raw_fcos.run)
    images = np.stack([blots((100, 76)), blots((100, 76), 1)]).astype(np.float32)
    found = detector.postprocess(head_outputs(onnx_runner(raw_fcos.file.read_bytes())(images)), [(76, 100)] * 2)
    expected = found_by_run(detector, images)
    assert min(map(len, expected)) > 3
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(as_arrays(ours), as_arrays(theirs))


@pytest.mark.slow
def test_a_program_of_torch_takes_images_of_any_size(tmp_path: Path) -> None:
    made = exported(random_run(tmp_path / "run", "gfl"), "--format", "torch", file=tmp_path / "model.pt2")
    assert made.difference_px < MAX_BOX_DIFFERENCE_PX
    assert "use it" not in made.said
    extra = {CARD_FILE: ""}
    program = torch.export.load(made.file, extra_files=extra).module()
    assert ModelCard.from_json(extra[CARD_FILE]).class_names == ("a", "b", "c")
    detector = Detector.load(made.run)
    for size in ((1, 1), (20, 300), (101, 77)):
        for count in (1, 3):
            images = np.stack([blots(size, seed) for seed in range(count)])
            boxes, scores, labels, deviations, counts = (x.numpy() for x in program(torch.tensor(images)))
            for image, theirs in enumerate(found_by_run(detector, images)):
                best = slice(int(counts[image]))
                assert_same(
                    DetectionArrays(*(x[image][best] for x in (boxes, scores, labels, deviations))), as_arrays(theirs)
                )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return random_run(tmp_path / "run", "gfl")


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command, which must be a mistake; return its one line."""

    def call(*arguments: object) -> str:
        assert main(["export", *map(str, arguments)]) == 2
        line = capsys.readouterr().err
        assert line.startswith("focaldet: ")
        assert line.count("\n") == 1
        return line

    return call


@pytest.mark.slow
def test_a_graph_that_was_changed_is_refused_and_nothing_is_written(
    run: Path, refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "model-raw.pt2").write_text("the file before")
    before = sorted(run.iterdir())
    copy = same_padding.with_same_convolutions

    def changed(net: DenseDetector, convolution: same_padding.SameConvolution) -> DenseDetector:
        other = copy(net, convolution)
        with torch.no_grad():
            other.head.box_outputs.bias[3] += 0.1
        return other

    monkeypatch.setattr(same_padding, "with_same_convolutions", changed)
    line = refuse(run, "--format", "torch", "--outputs", "raw")
    assert "the exported network differs from the run: boxes by " in line
    assert "nothing was written" in line
    assert (run / "model-raw.pt2").read_text() == "the file before"
    assert sorted(run.iterdir()) == before


def test_a_run_that_finds_nothing_is_compared_without_its_threshold(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(detector: Detector, *_: str, maps_too: bool) -> tuple[bytes, Reader]:
        threshold = detector.postprocess.config.score_threshold
        return str(threshold).encode(), lambda images: found_by_run(detector, images)[0]

    monkeypatch.setattr(export, "make_file", make)
    monkeypatch.setattr(export, "check_photos", lambda run, detector: [blots((64, 48))])
    document = json.loads((run / "model.json").read_text())
    document["reading"] |= {"score_threshold": 0.9999, "nms_iou": 0.9}
    (run / "model.json").write_text(json.dumps(document))
    made = exported(run)
    assert "no detections on the check photos" in made.said
    assert made.boxes > 50
    assert made.file.read_text() == "0.9999"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Exports take no time and write dummy files; the requests are recorded."""
    asked: list[tuple[str, str]] = []

    def make(detector: Detector, format: str, outputs: str, images: object, **more: object) -> tuple[bytes, Agreement]:
        asked.append((format, outputs))
        return b"0" * 100_000, Agreement(3, 0.0, 0.0, ((8, 8),))

    monkeypatch.setattr(export, "_checked", make)
    monkeypatch.setattr(export, "check_photos", lambda run, detector: [blots((32, 24))])
    return asked


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ((), "model.onnx"),
        (("--no-nms",), "model-sites.onnx"),
        (("--outputs", "raw"), "model-raw.onnx"),
        (("--outputs", "raw", "--no-nms"), "model-raw.onnx"),
        (("--format", "torch"), "model.pt2"),
        (("--format", "torch", "--no-nms"), "model-sites.pt2"),
    ],
)
def test_each_kind_of_file_has_its_name_in_the_run(
    run: Path, made: list[tuple[str, str]], options: tuple[str, ...], name: str
) -> None:
    files = set(run.iterdir())
    assert main(["export", str(run), *options]) == 0
    assert set(run.iterdir()) - files == {run / name}
    format = "torch" if "torch" in options else "onnx"
    outputs = "raw" if "raw" in options else "sites" if "--no-nms" in options else "detections"
    assert made == [(format, outputs)]


def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(
    run: Path, made: list[tuple[str, str]], refuse: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.onnx").mkdir()
    assert "model.pt2: expected a file whose name ends in .onnx" in refuse(run, "--out", tmp_path / "model.pt2")
    assert "expected a file whose name ends in .pt2" in refuse(run, "--format", "torch", "--out", tmp_path / "m.onnx")
    assert "expected a file whose name ends in .onnx" in refuse(run, "--out", tmp_path / "folder.onnx")
    assert "cannot be written" in refuse(run, "--out", tmp_path / "file" / "model.onnx")
    assert made == []


def test_a_full_disk_leaves_nothing_half_written(
    run: Path, made: list[tuple[str, str]], refuse: Callable[..., str], tiny_disk: Path
) -> None:
    assert "the disk is full" in refuse(run, "--out", tiny_disk / "model.onnx")
    assert list(tiny_disk.iterdir()) == []


def test_what_is_no_run_is_refused(refuse: Callable[..., str], tmp_path: Path) -> None:
    assert "nothing: no such run folder" in refuse(tmp_path / "nothing")
    assert "model.json: no such file" in refuse(tmp_path)
    (tmp_path / "model.onnx").write_text("a file")
    assert "model.onnx: no such run folder" in refuse(tmp_path / "model.onnx")


def test_unknown_options_are_refused(refuse: Callable[..., str], run: Path) -> None:
    assert "--format" in refuse(run, "--format", "tflite")
    assert "--outputs" in refuse(run, "--outputs", "boxes")


@pytest.mark.parametrize("package", ["onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_before_the_work(
    run: Path,
    made: list[tuple[str, str]],
    refuse: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    package: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    extra = "export" if package == "onnxscript" else "onnx"
    assert refuse(run) == f"focaldet: export: {package} is not installed; pip install 'focaldet[{extra}]'\n"
    assert made == []


def test_a_network_that_cannot_be_traced_is_one_line() -> None:
    class Stubborn(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images if images.float().sum() > 0 else images + 1

    graph: Any = Stubborn()
    with pytest.raises(InputError, match=r"^torch.export cannot trace this network for images of any size \(") as error:
        trace(graph, torch.uint8)
    assert "\n" not in str(error.value)


def test_a_network_of_one_size_is_one_line() -> None:
    class Fixed(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.reshape(-1, 192, 256, 3) + 1

    graph: Any = Fixed()
    with pytest.raises(InputError, match=r"^torch.export cannot trace this network for images of any size \("):
        trace(graph, torch.uint8)


def test_export_is_among_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    assert "export " in capsys.readouterr().out


def test_tests_do_not_write_down_each_step_of_a_trace() -> None:
    assert logging.getLogger("torch.__trace").handlers == []
