"""A hand-made model in the exported format: its detections follow from the photo's colours and size."""

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from focaldet.photos.resize import Resize
from focaldet.runtime.card import ModelCard

CARD = ModelCard(
    method="gfl",
    class_names=("red", "green", "blue"),
    size=40,
    resize=Resize(),
    strides=(8, 16, 32),
    outputs="detections",
    score_threshold=0.2,
    nms_iou=0.6,
    max_detections=3,
)

BOXES = np.array([[0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 1.0, 0.75], [0.1, 0.3, 0.6, 0.9]], np.float32)
"""Box of each class, as shares of the image."""


def colour_model(metadata: dict[str, str], dtype: int | None = None, boxes: np.ndarray = BOXES) -> bytes:
    """An ONNX file that finds a box of each colour whose mean is over a fifth; that mean is its score."""

    def constant(name: str, values: Any) -> Any:
        return numpy_helper.from_array(np.asarray(values), name)

    steps = [
        ("Cast", ["images"], ["pixels"], {"to": TensorProto.FLOAT}),
        ("ReduceMean", ["pixels", "across"], ["means"], {"keepdims": 0}),
        ("Div", ["means", "white"], ["shares"], {}),
        ("TopK", ["shares", "three"], ["scores", "labels"], {}),
        ("Greater", ["scores", "least"], ["there"], {}),
        ("Cast", ["there"], ["ones"], {"to": TensorProto.INT64}),
        ("ReduceSum", ["ones", "second"], ["count"], {"keepdims": 0}),
        ("Shape", ["images"], ["shape"], {}),
        ("Gather", ["shape", "sides"], ["size"], {}),
        ("Cast", ["size"], ["size_px"], {"to": TensorProto.FLOAT}),
        ("Mul", ["of_class", "size_px"], ["boxes_px"], {}),
        ("Gather", ["boxes_px", "labels"], ["boxes_xyxy"], {}),
        ("Mul", ["boxes_xyxy", "tenth"], ["side_std_px"], {}),
    ]
    constants = [
        constant("across", np.array([1, 2])),
        constant("white", np.float32(255)),
        constant("three", np.array([3])),
        constant("least", np.float32(0.2)),
        constant("second", np.array([1])),
        constant("sides", np.array([2, 1, 2, 1])),
        constant("of_class", boxes),
        constant("tenth", np.float32(0.1)),
    ]
    number, whole = TensorProto.FLOAT, TensorProto.INT64
    ends = [
        helper.make_tensor_value_info("boxes_xyxy", number, ["batch", 3, 4]),
        helper.make_tensor_value_info("scores", number, ["batch", 3]),
        helper.make_tensor_value_info("labels", whole, ["batch", 3]),
        helper.make_tensor_value_info("side_std_px", number, ["batch", 3, 4]),
        helper.make_tensor_value_info("count", whole, ["batch"]),
    ]
    image = helper.make_tensor_value_info("images", dtype or TensorProto.UINT8, ["batch", "height", "width", 3])
    nodes = [helper.make_node(kind, inputs, outputs, **options) for kind, inputs, outputs, options in steps]
    model = helper.make_model(
        helper.make_graph(nodes, "colours", [image], ends, constants),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    helper.set_model_props(model, metadata)
    return bytes(model.SerializeToString())
