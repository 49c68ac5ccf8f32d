"""Weights of an ONNX file in another file: next to it, or not read at all."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from colours import BOXES, CARD, colour_model

from focaldet.checks import InputError
from focaldet.runtime.card import KEY
from focaldet.runtime.external_data import external_folder
from focaldet.runtime.onnx_detector import OnnxDetector

PHOTO = np.full((60, 80, 3), (25, 204, 102), np.uint8)


def with_weights_in(name: str) -> bytes:
    """The model of colours, whose boxes are in a file of this name."""
    model = onnx.load_from_string(colour_model({KEY: CARD.to_json()}))
    boxes = next(tensor for tensor in model.graph.initializer if tensor.name == "of_class")
    boxes.ClearField("raw_data")
    boxes.data_location = onnx.TensorProto.EXTERNAL
    entry = boxes.external_data.add()
    entry.key, entry.value = "location", name
    return model.SerializeToString()


def test_a_file_beside_the_model_is_read_wherever_the_command_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "boxes.bin").write_bytes(BOXES.tobytes())
    (elsewhere / "boxes.bin").write_bytes((BOXES * 0).tobytes())
    (folder / "model.onnx").write_bytes(with_weights_in("boxes.bin"))
    monkeypatch.chdir(elsewhere)
    found = OnnxDetector.load(folder / "model.onnx").predict(PHOTO)
    assert found.boxes_xyxy == pytest.approx(BOXES[1:] * [80, 60, 80, 60])


@pytest.mark.parametrize(
    "name", ["boxes.bin", "../boxes.bin", "link.bin", "sub/boxes.bin", "/etc/hostname", "*/_ORT_MEM_ADDR_/*", "", "."]
)
def test_a_file_elsewhere_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path / "boxes.bin", folder / "sub" / "boxes.bin"):
        place.write_bytes(BOXES.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "boxes.bin")
    (folder / "model.onnx").write_bytes(with_weights_in(name))
    monkeypatch.chdir(tmp_path)  # where a file of the first name is
    with pytest.raises(InputError, match=r"model\.onnx: its weights are in .*, which is not a file next to it"):
        OnnxDetector.load(folder / "model.onnx")


def test_a_model_that_holds_its_weights_names_no_file(tmp_path: Path) -> None:
    assert external_folder(colour_model({KEY: CARD.to_json()}), tmp_path / "model.onnx") is None


def test_tensors_of_inner_graphs_and_attributes_are_looked_at(tmp_path: Path) -> None:
    inner = onnx.load_from_string(with_weights_in("../x.bin"))
    tensor = next(tensor for tensor in inner.graph.initializer if tensor.name == "of_class")
    of_node = onnx.helper.make_node("Constant", [], ["c"], value=tensor)
    graph = onnx.helper.make_graph([of_node], "inner", [], [onnx.helper.make_tensor_value_info("c", 1, [3, 4])])
    branch = onnx.helper.make_node("If", ["x"], ["y"], then_branch=graph, else_branch=graph)
    inside = [onnx.helper.make_graph([node], "g", [], []) for node in (of_node, branch)]
    function = onnx.helper.make_function("d", "f", [], ["c"], [of_node], [onnx.helper.make_opsetid("", 18)])
    models = [onnx.helper.make_model(graph) for graph in inside]
    models.append(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []), functions=[function]))
    for model in models:
        with pytest.raises(InputError, match=r"'\.\./x\.bin'"):
            external_folder(model.SerializeToString(), tmp_path / "model.onnx")


def test_a_field_number_that_is_written_too_long_is_the_same_field(tmp_path: Path) -> None:
    graph = onnx.load_from_string(with_weights_in("../x.bin")).graph.SerializeToString()
    length = len(graph) & 127 | 128, len(graph) >> 7
    # Field 7 of length kind is 58; bits beyond the 32nd are dropped by protobuf.
    model = bytes([58 | 128, 128, 128, 128, 0x70, *length]) + graph
    with pytest.raises(InputError, match=r"'\.\./x\.bin'"):
        external_folder(model, tmp_path / "model.onnx")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    data = with_weights_in("x.bin")
    for end in range(0, len(data), 50):
        with pytest.raises(InputError):
            external_folder(data[:end] + b"\xff" * 20, tmp_path / "model.onnx")
    assert os.listdir(tmp_path) == []
