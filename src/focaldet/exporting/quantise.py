"""8-bit convolutions in an ONNX file, by onnxruntime's static quantisation.

Activations are unsigned and asymmetric, weights signed with one scale per channel: the combination for which
onnxruntime's x86 kernels are fast. Operators between two convolutions (``PASSING``) also use 8 bits, which avoids
conversions to float32 and back. Norms, box decoding and NMS stay in float32.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from focaldet.data.records import ImageRecord
from focaldet.engine.detector import Detector
from focaldet.exporting.graph import RawGraph
from focaldet.exporting.network_inputs import network_inputs
from focaldet.runtime.card import KEY, ModelCard

PASSING = ("Relu", "Clip", "Add", "MaxPool", "Resize")
"""Operators between convolutions that also use 8 bits. None of them amplifies small differences."""


def with_8_bits(data: bytes, detector: Detector, photos: Sequence[ImageRecord], keeps: Callable[[str], bool]) -> bytes:
    """Quantise the convolutions of a file to 8 bits.

    Args:
        data: the float32 file.
        detector: the exported run.
        photos: photos for calibration.
        keeps: whether a convolution stays in float32, by the name of its weight.
    """
    model = onnx.load_from_string(data)
    normalise_by_channel(model)
    nodes = to_quantise(model, keeps)
    card = ModelCard.from_json(next(entry.value for entry in model.metadata_props if entry.key == KEY))
    # Batch norms are folded and shapes known already. Without this entry, onnxruntime warns about both.
    helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "quantised.onnx"
        quantize_static(
            model,
            file,
            CalibrationPhotos(photos, detector),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=sorted({node.op_type for node in nodes}),
            nodes_to_quantize=[node.name for node in nodes],
        )
        model = onnx.load(file)
    model.producer_name = "focaldet"
    model.producer_version = ""
    del model.metadata_props[:]
    helper.set_model_props(model, {KEY: replace(card, int8=True).to_json()})
    return bytes(model.SerializeToString())


def without_maps(data: bytes, detector: Detector) -> bytes:
    """Remove the raw maps, which were only needed to measure AP, from the outputs of a file."""
    model = onnx.load_from_string(data)
    maps = RawGraph(detector.net).output_names
    kept = [output for output in model.graph.output if output.name not in maps]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return bytes(model.SerializeToString())


def to_quantise(model: ModelProto, keeps: Callable[[str], bool]) -> list[NodeProto]:
    """The convolutions to quantise, and the operators between two of them."""
    constants = {constant.name for constant in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv" and not keeps(node.input[1])]
    before = _reached(convolutions, {name: node for node in model.graph.node for name in node.output})
    between = [
        node
        for node in model.graph.node
        if node.op_type in PASSING
        and node.name in before
        and not (node.op_type == "Add" and constants & set(node.input))  # the last step of a norm
    ]
    return convolutions + between


def _reached(ends: list[NodeProto], made_by: dict[str, NodeProto]) -> set[str]:
    """Names of all nodes that these nodes depend on."""
    names: set[str] = set()
    todo = list(ends)
    while todo:
        for name in todo.pop().input:
            node = made_by.get(name)
            if node is not None and node.name not in names:
                names.add(node.name)
                todo.append(node)
    return names


def normalise_by_channel(model: ModelProto) -> None:
    """Merge the subtraction of the mean and the division by the standard deviation of the input into one operator.

    8-bit convolutions need channels last, and onnxruntime transposes at the start of the graph. The separate operators
    then take ten times as long. Before this operator, it does not transpose.
    """
    constants = {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}
    nodes = model.graph.node
    subtract = next(node for node in nodes if node.op_type == "Sub" and node.input[1] in constants)
    divide = next(node for node in nodes if subtract.output[0] in node.input)
    mean, deviation = constants[subtract.input[1]].ravel(), constants[divide.input[1]].ravel()
    named = {
        "normalise_scale": 1 / deviation,
        "normalise_shift": -mean / deviation,
        "normalise_mean": np.zeros_like(mean),
        "normalise_variance": np.ones_like(mean),
    }
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in named.items())
    place = list(nodes).index(subtract)
    nodes.insert(
        place,
        helper.make_node(
            "BatchNormalization", [subtract.input[0], *named], [divide.output[0]], name="normalise", epsilon=0.0
        ),
    )
    nodes.remove(subtract)
    nodes.remove(divide)
    _drop_unused(model)


def _drop_unused(model: ModelProto) -> None:
    """Remove unused constants."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [constant for constant in model.graph.initializer if constant.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


class CalibrationPhotos(CalibrationDataReader):  # type: ignore[misc]
    """Network inputs of the calibration photos, one by one."""

    def __init__(self, records: Sequence[ImageRecord], detector: Detector) -> None:
        self.images = network_inputs(records, detector)

    def get_next(self) -> dict[str, Any] | None:
        """The next input by name, or ``None`` at the end."""
        image = next(self.images, None)
        return None if image is None else {"images": image[None]}
