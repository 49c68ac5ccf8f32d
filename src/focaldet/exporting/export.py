"""``focaldet export``: export a run to one file, after comparing it with the run."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from focaldet.checks import InputError
from focaldet.engine.detector import Detector
from focaldet.engine.hub import check_local, local_run
from focaldet.exporting import nms, same_padding
from focaldet.exporting.check import Agreement, Reader, check, check_images, check_photos
from focaldet.exporting.graph import DetectionGraph, LocationGraph, MeasuredGraph, RawGraph, head_outputs
from focaldet.exporting.int8 import Int8, quantised
from focaldet.exporting.tracing import Graph
from focaldet.files import replacing
from focaldet.photos.resize import Pixels
from focaldet.runtime.card import ModelCard, Outputs
from focaldet.runtime.model import DetectionArrays
from focaldet.runtime.outputs import Runner, read_outputs
from focaldet.structures import Detections

Format = Literal["onnx", "torch"]

SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
"""Format -> suffix of the file name."""


def export_run(
    run: Path,
    out: Path | None = None,
    *,
    format: Format = "onnx",
    outputs: Outputs = "detections",
    max_detections: int | None = None,
    int8: Int8 | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Export a run to one file, from pixels to boxes.

    Args:
        run: the run folder.
        out: file to write; by default ``model.onnx``, ``model-sites.onnx`` or ``model-raw.onnx`` (``.pt2``) in the run,
            or ``model-int8.onnx`` and so on with 8 bits.
        format: ONNX, or an exported program of torch.
        outputs: see ``ModelCard``.
        max_detections: largest number of detections per photo; ``None``: the run's own.
        int8: settings of 8-bit convolutions (ONNX only), or ``None``.
        say: prints a progress line.

    Returns:
        The path of the file.

    Raises:
        InputError: not a run, the network cannot be exported, the file cannot be written, its detections differ from
            the run's, or 8 bits cost too much AP.
    """
    if int8 is not None and format != "onnx":
        raise InputError(f"--format {format}: --int8 makes ONNX files only")
    if out is None:
        check_local(run, "export")
    run = local_run(run)
    detector = Detector.load(run, max_detections=max_detections, device="cpu")
    suffix = SUFFIXES[format]
    if out is None:
        kinds = [outputs] * (outputs != "detections") + ["int8"] * (int8 is not None)
        out = run / f"{'-'.join(['model', *kinds])}{suffix}"
    if out.suffix != suffix or out.is_dir():
        raise InputError(f"--out {out}: expected a file whose name ends in {suffix}")
    if format == "onnx":
        for package in ("onnxscript", "onnxruntime"):  # report a missing package before the work starts
            import_module(package)
    labelled = None if int8 is None else int8.folder(detector, run, say)
    with replacing(out) as beside:
        say(f"{run}: {detector.spec.method}, {detector.spec.backbone}; this takes a minute")
        images = check_images(check_photos(run, detector), detector)
        data, agreement = _checked(detector, format, outputs, images, maps_too=int8 is not None)
        if not agreement.boxes:
            say("no detections on the check photos; repeating with score threshold 0")
            eager = Detector(detector.spec, detector.net, detector.method, score_threshold=0)
            _, agreement = _checked(eager, format, outputs, images)
        say(str(agreement))
        if int8 is not None and labelled is not None:
            data = quantised(data, detector, labelled, int8, say)
        beside.write_bytes(data)
    say(f"{out}: {len(data) / 1e6:.1f} MB")
    return out


def model_card(detector: Detector, outputs: Outputs) -> ModelCard:
    """The model card of an export."""
    spec, config = detector.spec, detector.postprocess.config
    return ModelCard(
        method=spec.method,
        class_names=spec.class_names,
        size=spec.size,
        resize=spec.resize,
        strides=detector.net.strides,
        outputs=outputs,
        score_threshold=config.score_threshold,
        nms_iou=config.nms_iou,
        max_detections=config.max_detections,
        last_pixel=config.last_pixel,
        calibration=None if detector.certainty is None else detector.certainty.calibration.for_export(),
        tile=spec.tile,
        largest_px=spec.largest_px,
    )


def _checked(
    detector: Detector, format: Format, outputs: Outputs, images: Sequence[Pixels], *, maps_too: bool = False
) -> tuple[bytes, Agreement]:
    data, read = make_file(detector, format, outputs, maps_too=maps_too)
    return data, check(read, detector, images)


def make_file(detector: Detector, format: Format, outputs: Outputs, *, maps_too: bool = False) -> tuple[bytes, Reader]:
    """The file, and a function that reads detections from it as users will. ``maps_too`` adds the raw maps to ONNX."""
    card = model_card(detector, outputs)
    dtype = torch.float32 if card.resize.resampling == "torchvision" else torch.uint8
    if format == "onnx":
        from focaldet.exporting.onnx_file import onnx_bytes, onnx_runner

        own = (nms.onnx_nms, nms.onnx_topk)
        graph = _graph(detector, outputs, same_padding.conv2d_same, own, maps_too=maps_too)
        data = onnx_bytes(graph, card, dtype)
        run = onnx_runner(data)
    else:
        from focaldet.exporting.torch_file import torch_bytes, torch_runner

        operators = (nms.batched_nms, nms.topk)
        graph = _graph(detector, outputs, same_padding.conv2d_same_by_index, operators)
        data = torch_bytes(graph, card, dtype)
        run = torch_runner(data, graph.output_names)
    return data, _reader(run, detector, card)


def _graph(
    detector: Detector,
    outputs: Outputs,
    convolution: same_padding.SameConvolution,
    operators: tuple[nms.NMS, nms.TopK],
    *,
    maps_too: bool = False,
) -> Graph:
    net = same_padding.with_same_convolutions(detector.net, convolution)
    if outputs == "raw":
        return RawGraph(net)
    graph: LocationGraph | DetectionGraph
    if outputs == "sites":
        graph = LocationGraph(net, detector.postprocess)
    else:
        graph = DetectionGraph(net, detector.postprocess, *operators)
    return MeasuredGraph(graph) if maps_too else graph


def _reader(run: Runner, detector: Detector, card: ModelCard) -> Reader:
    def read(images: NDArray[Any]) -> Detections:
        outputs = run(images)
        if card.outputs != "raw":
            return _as_detections(read_outputs(outputs, 0, card))
        found: list[Detections] = detector.postprocess(head_outputs(outputs), [images.shape[1:3]])
        return found[0]

    return read


def _as_detections(found: DetectionArrays) -> Detections:
    boxes, scores, labels = (torch.from_numpy(np.array(x)) for x in (found.boxes_xyxy, found.scores, found.labels))
    return Detections(
        boxes, scores, labels, None if found.side_std_px is None else torch.from_numpy(np.array(found.side_std_px))
    )
