"""python -m benchmarks.detectors.speed: compare post-processing, training step and inference with their peers.

About eight minutes on two cores. Writes benchmarks/results/detectors_speed.md; run it on an idle machine.
The comparison with mmdetection needs an environment that has it (see benchmarks/assignment/peers.py).
"""

import argparse
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from benchmarks.assignment.peers import has_mmdet, load_mmdet
from benchmarks.detectors.work import NAMES, WHO, inference, training_step, two_training_steps
from benchmarks.provenance import provenance
from torch import Tensor

from focaldet.bench.losses import Row, table
from focaldet.bench.measure import extra_peak_bytes, interleaved_ms
from focaldet.methods.gfl import GFL
from focaldet.models.postprocess import PostProcess
from focaldet.structures import Detections, HeadOutputs

STRIDES = (8, 16, 32, 64, 128)
CLASSES, CANDIDATES = 80, 1000


def gfl_maps(height: int, width: int) -> HeadOutputs:
    """Maps of one image with just over 1,000 (location, class) pairs above the threshold of .05 on the finest level."""
    generator = torch.Generator().manual_seed(0)

    def maps(channels: int, centre: float) -> list[Tensor]:
        shapes = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
        return [torch.randn(1, channels, *shape, generator=generator) + centre for shape in shapes]

    return HeadOutputs(maps(CLASSES, -6.0), maps(4 * 17, 0.0))


def our_reading(outputs: HeadOutputs, height: int, width: int) -> Callable[[], Detections]:
    postprocess = PostProcess(GFL(), STRIDES, topk_candidates=CANDIDATES, offset=0.0)
    return lambda: postprocess(outputs, [(height, width)])[0]


def mmdet_reading(outputs: HeadOutputs, height: int, width: int) -> Callable[[], Detections]:
    """mmdetection's GFLHead.predict_by_feat on the same maps."""
    load_mmdet()
    from mmdet.models.dense_heads import GFLHead
    from mmengine.config import ConfigDict

    suppression = {"type": "nms", "iou_threshold": 0.6}
    head = GFLHead(
        CLASSES,
        8,
        feat_channels=8,
        stacked_convs=1,
        norm_cfg=None,
        anchor_generator={
            "type": "AnchorGenerator",
            "ratios": [1.0],
            "octave_base_scale": 8,
            "scales_per_octave": 1,
            "strides": STRIDES,
        },
        test_cfg=ConfigDict(nms_pre=CANDIDATES, min_bbox_size=0, score_thr=0.05, nms=suppression, max_per_img=100),
    ).eval()
    meta = {"img_shape": (height, width), "scale_factor": (1.0, 1.0)}

    def run() -> Detections:
        with torch.no_grad():
            (found,) = head.predict_by_feat(outputs.class_logits, outputs.box_maps, batch_img_metas=[meta])
        return Detections(found.bboxes, found.scores, found.labels)

    return run


def differing(ours: Detections, theirs: Detections) -> int:
    """Number of detections without a counterpart of the same class within .01 px and a score difference of 1e-5."""
    close = (ours.boxes_xyxy[:, None] - theirs.boxes_xyxy).abs().amax(dim=-1) < 0.01
    close &= (ours.scores[:, None] - theirs.scores).abs() < 1e-5
    close &= ours.labels[:, None] == theirs.labels
    return int((~close.any(dim=1)).sum() + (~close.any(dim=0)).sum())


def reading_rows(height: int, width: int, seconds: float) -> Iterator[Row]:
    work, peer = f"GFL's boxes, {width} x {height}, {CLASSES} classes", "mmdet GFLHead.predict_by_feat"
    outputs = gfl_maps(height, width)
    functions = {"ours": our_reading(outputs, height, width)}
    if has_mmdet():
        functions["peer"] = mmdet_reading(outputs, height, width)
    ms = interleaved_ms(functions, seconds=seconds)
    yield Row(work, "ours", ms["ours"], "ms", "")
    if "peer" not in ms:
        yield Row(work, f"{peer} is not installed", float("nan"), "", ">= 3")
        return
    yield Row(work, f"{peer} / ours", ms["peer"] / ms["ours"], "x", ">= 3")
    yield Row(work, "detections that differ", differing(functions["ours"](), functions["peer"]()), "", "0")


def training_rows(images: int, size: int, seconds: float) -> Iterator[Row]:
    for name in NAMES:
        work = f"training step, {name}, resnet18, {size} px, batch {images}"
        ms = interleaved_processes_ms(training_step, {who: (name, who, images, size) for who in WHO}, seconds)
        memory = {who: extra_peak_bytes(two_training_steps, name, who, images, size) for who in WHO}
        yield from compared(work, ms, ">= 1.3")
        if memory["ours"] is not None:
            yield Row(work, "ours, extra peak memory", memory["ours"] / 1e6, "MB", "")
            for who in WHO[1:]:
                measure = f"torchvision{who.removeprefix('peer')} / ours, extra peak memory"
                yield Row(work, measure, (memory[who] or 0) / memory["ours"], "x", "> 1")


def interleaved_processes_ms(
    prepare: Callable[..., Callable[[], object]], arguments: dict[str, tuple[object, ...]], seconds: float
) -> dict[str, float]:
    """``interleaved_ms`` of the functions from ``prepare``, each in a process with its own memory settings."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for who, args in arguments.items():
        pipes[who], end = context.Pipe()
        processes.append(context.Process(target=run_when_asked, args=(end, prepare, args)))
        processes[-1].start()

    def asked(pipe: Connection) -> Callable[[], object]:
        def run() -> None:
            pipe.send(True)
            pipe.recv()

        return run

    ms = interleaved_ms({who: asked(pipe) for who, pipe in pipes.items()}, seconds=seconds)
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(False)
        process.join()
    return ms


def run_when_asked(end: Connection, prepare: Callable[..., Callable[[], object]], args: tuple[object, ...]) -> None:
    run = prepare(*args)
    while end.recv():
        run()
        end.send(None)


def inference_rows(size: int, seconds: float) -> Iterator[Row]:
    for name in NAMES:
        work = f"inference, {name}, resnet18, {size} px, batch 1"
        functions: dict[str, Any] = {who: inference(name, who, size) for who in WHO}
        yield from compared(work, interleaved_ms(functions, seconds=seconds), ">= 1.2")
        found = {who: functions[who]() for who in WHO}
        yield Row(work, "detections", len(found["ours"]), "", "")
        yield Row(work, "detections that differ", differing(found["ours"], found["peer"]), "", "0")


def compared(work: str, ms: dict[str, float], wanted: str) -> Iterator[Row]:
    yield Row(work, "ours", ms["ours"], "ms", "")
    for who in WHO[1:]:
        yield Row(work, f"torchvision{who.removeprefix('peer')} / ours", ms[who] / ms["ours"], "x", wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--quick", action="store_true", help="small images and one round: does everything run?")
    args = parser.parse_args()
    seconds = 0.1 if args.quick else 20.0
    size, images = (64, 2) if args.quick else (320, 8)
    lines = []
    for rows in (
        reading_rows(*((128, 192) if args.quick else (800, 1333)), seconds=seconds),
        inference_rows(size, seconds),
        training_rows(images, size, 3 * seconds),
    ):
        for line in list(table(rows))[2 if lines else 0 :]:
            lines.append(line)
            print(line, flush=True)
    args.output.mkdir(parents=True, exist_ok=True)
    text = [
        "# Parts of the detectors compared with their peers",
        "",
        f"{provenance('python -m benchmarks.detectors.speed')}. Medians of interleaved runs, float32. Our detector "
        "has the weights of the peer, loaded with `focaldet import`: the same backbone, pyramid and towers (256 "
        "channels, 4 convolutions), 80 classes. A step consists of forward pass, loss, backward pass and AdamW. Each "
        "detector runs in a separate process; ours keeps its memory as in `focaldet train` (docs/adr/0005). Memory "
        "is the increase of the peak over two steps: activations, gradients and the state of AdamW. The peer runs "
        "both as shown in its documentation and with its weights in channels-last order, like ours.",
        "",
        *lines,
        "",
    ]
    (args.output / "detectors_speed.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
