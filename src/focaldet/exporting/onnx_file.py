"""Write a graph to an ONNX file."""

import warnings
from typing import Any

import torch

from focaldet.checks import InputError, one_line
from focaldet.exporting import nms, same_padding
from focaldet.exporting.tracing import Graph, trace
from focaldet.runtime.card import KEY, ModelCard
from focaldet.runtime.outputs import Runner
from focaldet.runtime.providers import onnx_session

OPSET = 18
"""ONNX operator set (2022): the oldest with all operators used here, for compatibility with older runtimes."""


def onnx_bytes(graph: Graph, card: ModelCard, dtype: torch.dtype) -> bytes:
    """The bytes of an ONNX file of the graph, with the model card in its metadata.

    Args:
        dtype: dtype of the images.

    Raises:
        InputError: the network cannot be traced, or uses operations that ONNX lacks.
    """
    translations = nms.onnx_translations() | same_padding.onnx_translations() | _product_translations()
    program = trace(graph, dtype)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made: Any = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=graph.output_names,
                custom_translation_table=translations,
                verbose=False,
            )
    except Exception as error:  # missing operators raise different classes
        raise InputError(f"torch.onnx cannot write this network ({one_line(error)})") from error
    model = made.model
    model.producer_name, model.producer_version = "focaldet", None
    model.metadata_props[KEY] = card.to_json()
    for node in model.graph.all_nodes():  # source locations, with paths of this machine
        node.metadata_props.clear()
        node.doc_string = None
    _name_axes(model.graph)
    return bytes(made.model_proto.SerializeToString())


def onnx_runner(data: bytes) -> Runner:
    """A function that runs an ONNX file with onnxruntime."""
    session = onnx_session(data)
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(None, {"images": images}), strict=True))


def _product_translations() -> dict[Any, Any]:
    """ONNX translation of products with a vector (expectations over bins) to ``Mul`` and ``ReduceSum``: onnxruntime's
    ``MatMul`` takes five times as long."""
    from onnxscript import opset18

    op: Any = opset18

    def matmul(first: Any, second: Any) -> Any:
        if len(second.shape) > 1:
            return op.MatMul(first, second)
        return op.ReduceSum(op.Mul(first, second), op.Constant(value_ints=[-1]), keepdims=0)

    return {torch.ops.aten.matmul.default: matmul}


def _name_axes(graph: Any) -> None:
    """Name the dynamic axes, for people who inspect the file."""
    (images,) = graph.inputs
    names = dict(zip(map(str, images.shape), ("batch", "height", "width"), strict=False))
    for value in (images, *graph.outputs, *(output for node in graph.all_nodes() for output in node.outputs)):
        if value.shape is not None and not value.shape.frozen:
            for axis, length in enumerate(value.shape):
                value.shape[axis] = names.get(str(length), length)
