"""Results of an exported file, and errors for files that are not models, damaged, foreign or of another version."""

import json
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from colours import BOXES, CARD, colour_model
from onnx import TensorProto
from PIL import Image

from focaldet.checks import InputError
from focaldet.cli import main
from focaldet.engine.load import load_model
from focaldet.photos.resize import Resize
from focaldet.runtime.card import KEY, ModelCard
from focaldet.runtime.onnx_detector import OnnxDetector
from focaldet.runtime.outputs import check_outputs
from focaldet.runtime.providers import AUTO, PROVIDERS, provider_session

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """Writes a file and loads it, which must be a mistake; gives the one line without the file's name."""

    def load(data: bytes) -> str:
        file = tmp_path / "model.onnx"
        file.write_bytes(data)
        with pytest.raises(InputError) as error:
            OnnxDetector.load(file)
        line = str(error.value)
        assert line.startswith(f"{file}: ")
        assert "\n" not in line
        assert len(line) - len(str(file)) < 400
        return line.removeprefix(f"{file}: ")

    return load


def changed(**values: object) -> bytes:
    """A file whose card says something else."""
    return colour_model({KEY: json.dumps(json.loads(CARD.to_json()) | values)})


def test_boxes_and_deviations_are_in_pixels_of_the_photo(model: OnnxDetector, photo: Path) -> None:
    found = model.predict(photo)
    assert [model.class_names[label] for label in found.labels] == ["green", "blue"]
    assert found.scores == pytest.approx([0.8, 0.4])
    assert found.boxes_xyxy == pytest.approx(BOXES[1:] * [80, 60, 80, 60])
    assert found.side_std_px == pytest.approx(BOXES[1:] * [8, 6, 8, 6])


def test_a_path_an_image_and_an_array_give_the_same(model: OnnxDetector, photo: Path) -> None:
    found = model.predict(photo)
    with Image.open(photo) as image:
        for same in (str(photo), image, np.asarray(image)):
            assert np.array_equal(model.predict(same).boxes_xyxy, found.boxes_xyxy)


def test_a_batch_gives_each_photo_its_own_boxes(model: OnnxDetector) -> None:
    colours = np.diag([250, 150, 60]).astype(np.uint8)
    photos = [np.broadcast_to(colour, (30, 40 * scale, 3)) for colour in colours for scale in (1, 1)]
    seen = [model.prepare(np.ascontiguousarray(photo)) for photo in photos]
    found = model.detect(seen)
    assert [boxes.labels.tolist() for boxes in found] == [[0], [0], [1], [1], [2], [2]]
    assert [len(boxes) for boxes in model.detect(seen[:1])] == [1]


def test_a_photo_without_an_object_gives_no_box(model: OnnxDetector) -> None:
    found = model.predict(np.zeros((33, 57, 3), np.uint8))
    assert len(found) == 0
    assert found.boxes_xyxy.shape == (0, 4)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (700, 3)])
def test_photos_of_any_size_are_taken(model: OnnxDetector, shape: tuple[int, int]) -> None:
    found = model.predict(np.full((*shape, 3), 255, np.uint8))
    assert found.boxes_xyxy == pytest.approx(BOXES * [*shape[::-1], *shape[::-1]], rel=1e-6)


def test_the_last_pixel_of_a_box_is_in_it(tmp_path: Path, photo: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(changed(last_pixel=True))
    found = OnnxDetector.load(file).predict(photo)
    assert found.boxes_xyxy == pytest.approx(np.array([[20, 15, 80, 46], [8, 18, 49, 55]]))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for load in (OnnxDetector.load, load_model):
        with pytest.raises(InputError, match=r"nothing\.onnx: no such"):
            load(tmp_path / "nothing.onnx")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a folder; expected a file"):
        OnnxDetector.load(tmp_path)


@pytest.mark.parametrize("data", [b"", b"\0", b"PNG", b"\x08\x0a" * 50, bytes(range(256))])
def test_what_is_no_onnx_file_is_refused(refused: Refused, data: bytes) -> None:
    assert "not an ONNX file" in refused(data)


def test_a_truncated_file_is_refused_wherever_it_ends(refused: Refused, colours: Path) -> None:
    data = colours.read_bytes()
    for end in range(1, len(data), 97):
        refused(data[:end])


def test_a_file_with_flipped_bits_is_refused_or_gives_sound_boxes(tmp_path: Path, colours: Path) -> None:
    data, chance = colours.read_bytes(), np.random.default_rng(0)
    photo, file = np.full((60, 80, 3), (25, 204, 102), np.uint8), tmp_path / "model.onnx"
    refusals: list[str] = []
    for _ in range(150):
        broken = bytearray(data)
        for place in chance.integers(len(data), size=3):
            broken[place] ^= 1 << int(chance.integers(8))
        file.write_bytes(broken)
        try:
            model = OnnxDetector.load(file)
            found = model.predict(photo)
            assert np.isfinite(found.boxes_xyxy).all()
            assert all(label < len(model.class_names) for label in found.labels)
        except InputError as error:
            refusals.append(str(error))
    assert len(refusals) > 50
    assert not [line for line in refusals if "\n" in line]


def test_an_onnx_file_from_elsewhere_is_refused(refused: Refused) -> None:
    assert refused(colour_model({})) == "an ONNX file, but not a focaldet model; create one with focaldet export RUN"
    assert "not a focaldet model" in refused(colour_model({"stride": "32", "names": "{0: 'person'}"}))


def test_a_model_of_a_newer_format_tells_who_wrote_it(refused: Refused) -> None:
    line = refused(changed(format=2, focaldet="9.1"))
    assert line.startswith("format 2, written by focaldet 9.1; this focaldet")
    assert "install that version" in line


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "[" * 100_000, '{"focaldet": "0.1"}'])
def test_a_description_that_is_no_json_object_is_refused(refused: Refused, text: str) -> None:
    assert "its model card is broken" in refused(colour_model({KEY: text}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("class_names", []),
        ("class_names", [3]),
        ("class_names", "cells"),
        ("strides", 8),
        ("size", 0),
        ("size", "large"),
        ("size", None),
        ("size", 1e9),
        ("outputs", "boxes"),
        ("resize", {"short_side": "small"}),
        ("resize", {"resampling": "lanczos"}),
        ("resize", {"mean": 3}),
        ("resize", 3),
        ("score_threshold", "low"),
        ("score_threshold", -1),
        ("nms_iou", float("nan")),
        ("nms_iou", "high"),
        ("max_detections", 0),
    ],
)
def test_a_description_with_a_wrong_value_is_refused(refused: Refused, name: str, value: object) -> None:
    line = refused(changed(**{name: value}))
    assert line.startswith("its model card is broken (")
    assert "export it again" in line


def test_a_description_without_a_key_names_it(refused: Refused) -> None:
    values = json.loads(CARD.to_json())
    del values["strides"]
    assert "'strides'" in refused(colour_model({KEY: json.dumps(values)}))


def test_what_a_newer_focaldet_adds_to_the_description_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(changed(author="somebody"))
    assert OnnxDetector.load(file).card == CARD


def test_a_card_is_the_same_when_it_was_written_and_read() -> None:
    card = replace(CARD, resize=Resize(short_side=800, resampling="opencv"), nms_iou=None, last_pixel=True)
    assert ModelCard.from_json(card.to_json()) == card


def test_a_model_of_raw_maps_says_what_it_is_for(refused: Refused) -> None:
    assert "raw maps, which are for other programs" in refused(changed(outputs="raw"))


def test_inputs_that_are_not_those_of_the_description_are_refused(refused: Refused) -> None:
    expected = "its inputs and outputs do not match its model card; export it again"
    assert refused(colour_model({KEY: CARD.to_json()}, TensorProto.FLOAT)) == expected
    assert refused(changed(resize={"short_side": None, "resampling": "torchvision"})) == expected


@pytest.mark.parametrize("boxes", [np.full((3, 4), np.nan, np.float32), np.full((3, 4), np.inf, np.float32)])
def test_boxes_that_are_no_numbers_are_refused(tmp_path: Path, photo: Path, boxes: np.ndarray) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(colour_model({KEY: CARD.to_json()}, boxes=boxes))
    with pytest.raises(InputError, match="returned invalid boxes"):
        OnnxDetector.load(file).predict(photo)


def test_a_class_without_a_name_is_refused(tmp_path: Path, photo: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(changed(class_names=["red", "green"]))
    with pytest.raises(InputError, match="returned invalid boxes"):
        OnnxDetector.load(file).predict(photo)


def test_a_model_that_cannot_be_run_says_so(tmp_path: Path, photo: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(colour_model({KEY: CARD.to_json()}, boxes=BOXES[:2]))
    with pytest.raises(InputError, match=r"cannot be run on a photo of 40 x 30 px \(.*\)"):
        OnnxDetector.load(file).predict(photo)


def test_threads_are_at_least_one(colours: Path) -> None:
    assert OnnxDetector.load(colours, threads=1).class_names == CARD.class_names
    with pytest.raises(InputError, match="threads: expected at least 1, got 0"):
        OnnxDetector.load(colours, threads=0)


@pytest.mark.parametrize("score", [0.1, -1, 1, 7, float("nan")])
def test_a_score_below_what_is_built_in_is_refused(colours: Path, score: float) -> None:
    with pytest.raises(
        InputError, match=r"score: expected a number in \[0\.2, 1\), got .*colours\.onnx was exported with"
    ):
        load_model(colours, score=score)


@pytest.mark.skipif(
    onnxruntime.get_available_providers()[0] != "AzureExecutionProvider",
    reason="another wheel is installed in the place of onnxruntime",
)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--openvino"], "lacks OpenVINO; replace it: {uninstall}, then pip install onnxruntime-openvino"),
        (["--provider", "openvino"], "lacks OpenVINO; replace it: {uninstall}, then pip install onnxruntime-openvino"),
        (
            ["--provider", "cuda"],
            "lacks CUDA; replace it on an NVIDIA GPU with CUDA and cuDNN: {uninstall}, then pip install "
            "onnxruntime-gpu",
        ),
        (
            ["--provider", "tensorrt"],
            "lacks TensorRT; replace it on an NVIDIA GPU with CUDA, cuDNN and TensorRT: {uninstall}, then pip install "
            "onnxruntime-gpu",
        ),
        (
            ["--provider", "directml"],
            "lacks DirectML; replace it on Windows: {uninstall}, then pip install onnxruntime-directml",
        ),
        (["--provider", "coreml"], "lacks CoreML; its wheel for macOS has it"),
    ],
)
def test_the_package_with_a_missing_provider_is_named(
    colours: Path, photo: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(colours), str(photo), *arguments]) == 2
    message = message.format(uninstall="pip uninstall --yes onnxruntime")
    assert capsys.readouterr().err == (f"focaldet: {colours}: this onnxruntime ({onnxruntime.__version__}) {message}\n")


def test_the_cpu_computes_where_the_wheel_has_no_other(colours: Path) -> None:
    assert provider_session(colours.read_bytes(), "cpu") is None
    if not {PROVIDERS[name].name for name in AUTO} & set(onnxruntime.get_available_providers()):
        assert provider_session(colours.read_bytes(), "auto") is None
    assert OnnxDetector.load(colours, provider="cpu").provider is None


@pytest.mark.parametrize("provider", ["auto", "cuda"])
def test_a_provider_that_does_not_start_is_named_and_auto_goes_on_without_it(
    colours: Path, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    """onnxruntime says that it has CUDA; asked for it, it starts without, as its wheel does where there is no GPU."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("no CUDA here"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Specified provider 'CUDAExecutionProvider'")
        if provider == "auto":
            assert OnnxDetector.load(colours, provider="auto").provider is None
        else:
            with pytest.raises(InputError, match="CUDA fails to start; it needs an NVIDIA GPU with CUDA and cuDNN; "):
                OnnxDetector.load(colours, provider="cuda")


def test_a_provider_of_no_such_name_is_refused(colours: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="--provider cudo: unknown; did you mean 'cuda'"):
        OnnxDetector.load(colours, provider="cudo")
    assert main(["predict", str(colours), str(photo), "--provider", "cudo"]) == 2
    assert "cudo" in capsys.readouterr().err
    assert main(["predict", str(colours), str(photo), "--provider", "cuda", "--openvino"]) == 2
    assert capsys.readouterr().err == (
        "focaldet: --openvino: short for --provider openvino; leave out --provider cuda\n"
    )


def test_without_onnxruntime_the_extra_is_named(
    colours: Path, photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["predict", str(colours), str(photo)]) == 2
    assert capsys.readouterr().err == (
        "focaldet: predict: onnxruntime is not installed; pip install 'focaldet[onnx]'\n"
    )


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("scores", lambda v: v + 1, "scores: expected values in"),
        ("scores", lambda v: v - 1, "scores: expected values in"),
        ("boxes_xyxy", lambda v: v[..., ::-1], "beyond the opposite side"),
        ("boxes_xyxy", lambda v: v * np.nan, "a side is not a number"),
        ("boxes_xyxy", lambda v: v[:, :2], "scores: expected shape"),
        ("side_std_px", lambda v: -v - 1, "side_std_px: expected numbers >= 0"),
        ("count", lambda v: v + 5, "count: expected values in [0, 3]"),
        ("count", lambda v: -v - 1, "count: expected values in [0, 3]"),
        ("count", lambda v: v[None], "count: expected shape (1,), got (1, 1)"),
        ("labels", lambda v: v + 3, "labels: expected values in [0, 3)"),
    ],
)
def test_outputs_that_are_no_boxes_are_refused_with_what_is_wrong(model: OnnxDetector, name, change, words) -> None:
    outputs = model.run(np.full((1, 30, 40, 3), (25, 204, 102), np.uint8))
    check_outputs(outputs, 1, CARD)
    with pytest.raises(ValueError, match=re.escape(words)):
        check_outputs(outputs | {name: change(outputs[name])}, 1, CARD)
