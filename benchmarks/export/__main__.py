"""python -m benchmarks.export --data BCCD: compare exported detectors with their runs and with torchvision's.

Exports the files first (two minutes; they are kept in ``--files`` and reused), then measures for about three minutes on
two cores. Writes benchmarks/results/export.md; run it on an idle machine. ``--runs`` adds AP and file size of trained
runs, in float32 and with 8 bits. With onnxruntime-openvino instead of onnxruntime, it also measures ``--openvino``.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from benchmarks.export.work import (
    BACKBONE,
    PHOTOS,
    SIZE,
    Scene,
    convolution_share,
    eager,
    in_turn,
    our_file,
    our_int8_file,
    own_detector,
    runs,
    torchvision_file,
    torchvision_input,
    torchvision_pair,
)
from benchmarks.provenance import given_command, printed, provenance

from focaldet.bench.losses import Row, table
from focaldet.bench.measure import interleaved_ms
from focaldet.engine.compare import detect_labelled
from focaldet.engine.detector import Detector
from focaldet.evaluation.average_precision import average_precision
from focaldet.exporting.export import make_file
from focaldet.exporting.int8 import FLOAT_PARTS, Int8, file_ap
from focaldet.exporting.quantise import with_8_bits
from focaldet.runtime.providers import PROVIDERS

RESULT = Path(__file__).parents[1] / "results" / "export.md"
BATCHES = (1, 8)
REST = 0.05
"""Pause in seconds before each measurement: onnxruntime's threads keep a core busy for some 30 ms after a photo."""

HAS_OPENVINO = PROVIDERS["openvino"].name in onnxruntime.get_available_providers()


def speed_rows(scene: Scene, files: Path, seconds: float) -> Iterator[Row]:
    """Speed of our detector with its own head, and with the weights of torchvision's FCOS."""
    own = own_detector(scene)
    peer, twin = torchvision_pair(scene)

    def file(name: str, make: Callable[[], bytes]) -> bytes:
        path = files / f"{name}.onnx"
        if not path.exists():
            path.write_bytes(make())
        return path.read_bytes()

    theirs = runs(file("torchvision-fcos", lambda: torchvision_file(peer, scene)))
    peer_images = [torchvision_input(images).numpy() for images in scene.images]
    for name, detector, dtype in (("gfl", own, np.uint8), ("fcos", twin, np.float32)):
        size = f"{detector.spec.channels} channels, {detector.spec.head_depth} convolutions"
        data = file(name, lambda d=detector: our_file(d))  # type: ignore[misc]
        in_8_bits = file(f"{name}-int8", lambda d=detector, f=data: our_int8_file(d, f, scene))  # type: ignore[misc]
        exports = {"exported": runs(data), "int8": runs(in_8_bits)}
        if HAS_OPENVINO:
            exports |= {"openvino": runs(data, openvino=True), "int8, openvino": runs(in_8_bits, openvino=True)}
        for batch in BATCHES:
            work = f"{detector.spec.method.upper()} ({size}), batch {batch}"
            images: list[Any] = scene.batches(batch)
            as_taken = [x.astype(dtype) for x in images]
            functions = {
                "eager": in_turn(eager(detector), images),
                "without tiles": in_turn(eager(detector, tiles=False), images),
                **{who: in_turn(run, as_taken) for who, run in exports.items()},
            }
            if HAS_OPENVINO:
                functions["eager bf16"] = in_turn(eager(detector, bf16=True), images)
            if batch == 1:
                functions["torchvision"] = in_turn(theirs, peer_images)
            ms = interleaved_ms(functions, seconds=seconds, most=400, rest=REST)
            yield Row(work, "exported", ms["exported"], "ms", "")
            yield Row(work, "share of convolutions", 100 * convolution_share(data, as_taken), "%", "")
            yield Row(work, "our eager inference / exported", ms["eager"] / ms["exported"], "x", ">= 1.5")
            yield Row(
                work, "the same with torch's convolutions / exported", ms["without tiles"] / ms["exported"], "x", ""
            )
            yield Row(work, "exported / int8", ms["exported"] / ms["int8"], "x", ">= 1.5")
            if HAS_OPENVINO:
                yield Row(work, "exported, --openvino", ms["openvino"], "ms", "")
                yield Row(work, "int8, --openvino", ms["int8, openvino"], "ms", "")
                yield Row(work, "exported / exported, --openvino", ms["exported"] / ms["openvino"], "x", "")
                yield Row(
                    work, "our eager inference / exported, --openvino", ms["eager"] / ms["openvino"], "x", ">= 1.5"
                )
                yield Row(
                    work, "the same in bfloat16 / exported, --openvino", ms["eager bf16"] / ms["openvino"], "x", ""
                )
            if batch == 1:
                yield Row(
                    work, "torchvision's FCOS exported / exported", ms["torchvision"] / ms["exported"], "x", ">= 1.3"
                )
    found = [
        differing(exports["exported"](x.astype(np.float32)), theirs(y))
        for x, y in zip(scene.images, peer_images, strict=True)
    ]
    yield Row(work.split(",")[0] + ")", "boxes that differ from torchvision's, in 8 photos", sum(found), "", "0")


def differing(ours: list[Any], theirs: list[Any]) -> int:
    """Number of boxes of one file without a counterpart within .05 px and a score difference of .001."""
    count = int(ours[-1][0])
    boxes, scores, labels = (values[0][:count] for values in ours[:3])
    close = np.abs(boxes[:, None] - theirs[0]).max(axis=2) < 0.05
    close &= np.abs(scores[:, None] - theirs[1]) < 1e-3
    close &= labels[:, None] == theirs[2]
    return int((~close.any(axis=1)).sum() + (~close.any(axis=0)).sum())


def accuracy_rows(run: Path, scene: Scene, files: Path, split: str) -> Iterator[Row]:
    """AP and size of the files of a trained run."""
    detector = Detector.load(run)
    photos = Int8(scene.folder.root).photos(scene.folder)
    data, _ = make_file(detector, "onnx", "detections", maps_too=True)
    made = with_8_bits(data, detector, photos, FLOAT_PARTS["nothing"])
    work = f"{run.name}: {detector.spec.method}, {detector.spec.backbone}"
    before, after = (100 * file_ap(x, detector, scene.folder, split) for x in (data, made))
    yield Row(work, f"AP on {split}, exported", before, "", "")
    yield Row(work, f"AP on {split}, int8, all convolutions", after, "", f">= {before - 1:.2f}")
    if HAS_OPENVINO:
        file = files / f"{run.name}.onnx"
        file.write_bytes(data)
        least = detector.spec.postprocess.score_threshold
        before, after = (100 * found_ap(file, scene, split, least, openvino=openvino) for openvino in (False, True))
        yield Row(work, f"AP on {split} with predict (score threshold {least:g})", before, "", "")
        yield Row(work, "the same, --openvino", after, "", f">= {before - 1:.2f}")
    yield Row(work, "file size", len(data) / 1e6, "MB", "<= 16" if "lite0" in detector.spec.backbone else "")
    yield Row(work, "file, int8", len(made) / 1e6, "MB", "")


def found_ap(file: Path, scene: Scene, split: str, least: float, *, openvino: bool) -> float:
    """AP of the boxes that ``focaldet predict`` returns for a file."""
    found = detect_labelled(
        file, scene.folder.root, split=split, score=least, provider="openvino" if openvino else "cpu"
    )
    return average_precision(found.truth, found.results).metrics["AP"] or 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled photos")
    parser.add_argument("--files", type=Path, required=True, help="folder for the exported files")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="trained run folders")
    parser.add_argument("--split", default="test", help="that AP is measured on")
    parser.add_argument("--seconds", type=float, default=30.0, help="seconds of each comparison; there are four")
    parser.add_argument("--output", type=Path, default=RESULT)
    args = parser.parse_args()
    scene = Scene.of(args.data)
    args.files.mkdir(parents=True, exist_ok=True)
    lines = printed(table(all_rows(scene, args)))
    text = [
        "# Exported detectors",
        "",
        f"{provenance(given_command('benchmarks.export'))}, onnxruntime {onnxruntime.__version__}.",
        "",
        f"Speed: {BACKBONE}, {PHOTOS} photos of {SIZE} px in turn, medians of interleaved runs in one process, each "
        f"after a pause of {REST:g} s, with random weights that are scaled so that there are detections. GFL has the "
        "default head; FCOS has the head and the weights of torchvision's FCOS, whose file contains the same "
        "convolutions. Our eager inference computes 3 x 3 convolutions with Winograd's minimal filtering "
        "(docs/adr/0010), which onnxruntime does not use; the table also compares with eager inference that uses "
        "torch's own convolutions. For bfloat16, the file runs with OpenVINO, and eager inference with torch's "
        "autocast.",
        "",
        *lines,
    ]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text("\n".join(text) + "\n")


def all_rows(scene: Scene, args: argparse.Namespace) -> Iterator[Row]:
    yield from speed_rows(scene, args.files, args.seconds)
    for run in args.runs:
        yield from accuracy_rows(run, scene, args.files, args.split)


if __name__ == "__main__":
    main()
