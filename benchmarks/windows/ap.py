"""python -m benchmarks.windows.ap --data BCCD --out DIR: is a photo better processed in windows, or as a whole?

Stitches large photos from BCCD's (``stitch``), and trains on whole photos at 320, 640 and 1,280 px and on windows, with
the same seeds, on the photos at their own scale and at a fifth of it. Each network sees the same number of megapixels,
so that all training costs the same, whatever else the machine does. Measures AP on test by the size of objects in the
photo's pixels, and the time per megapixel; the run on windows is also measured inside supervision's
``InferenceSlicer``. Writes benchmarks/results/windows.md, and windows.json with the runs behind it.

The command may be stopped and restarted: measured runs in windows.json are not repeated, nor are finished parts in DIR.
``--times`` measures the runs in DIR again, on an idle machine.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from benchmarks.continuing import train_or_continue
from benchmarks.provenance import commit, given_command, provenance
from benchmarks.windows.stitch import make

from focaldet.data.folder import read_folder
from focaldet.data.truth import category_ids, coco_truth, image_ids
from focaldet.data.windows import windows_per_epoch
from focaldet.engine.config import TrainConfig
from focaldet.engine.conversions import to_supervision
from focaldet.engine.detect import as_detections
from focaldet.engine.detector import Detector
from focaldet.engine.evaluate import as_trained
from focaldet.engine.pyramid import with_levels
from focaldet.engine.windows import with_tile
from focaldet.evaluation.average_precision import average_precision
from focaldet.files import read_json, write_json, write_text
from focaldet.photos.images import read_photo
from focaldet.runtime.model import DetectionArrays
from focaldet.runtime.results import coco_results
from focaldet.runtime.window_stream import look_at

RESULTS = Path(__file__).parents[1] / "results" / "windows.md"

SETS = ("full", "fifth")
METRICS = ("AP", "AP50", "AP_small", "AP_medium", "AP_large")
WHOLE = (320, 640, 1280)

STEP_MEGAPIXELS, MAX_BATCH = 1, 8
"""A step has eight small images, or as many larger ones as make a megapixel."""

SLICE_BOXES = 200
"""Number of best boxes per window passed to supervision, some seven times the objects there: its suppression keeps the
IoU of all pairs in memory."""

Look = Callable[[np.ndarray], DetectionArrays]


@dataclass(frozen=True)
class Rung:
    """One way to train.

    Args:
        name: name for people and files.
        changes: fields of ``TrainConfig``.
    """

    name: str
    changes: dict[str, Any]

    @property
    def slug(self) -> str:
        """The name in names of folders."""
        return self.name.replace(" ", "-")


RUNGS = [Rung(f"whole {size} px", {"size": size}) for size in WHOLE] + [Rung("windows", {"tile": "auto"})]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BCCD")
    parser.add_argument("--out", type=Path, required=True, help="folder for photos, runs and measurements")
    parser.add_argument("--megapixels", type=int, default=600, help="that each training sees (default: 600)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind (default: 3)")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS, help="scales of the photos")
    parser.add_argument("--times", action="store_true", help="measure all runs that are there again")
    parser.add_argument("--backbone-weights", type=Path, help="start from these weights")
    parser.add_argument("--backbone", default="regnetx_002")
    parser.add_argument("--result", type=Path, default=RESULTS, help="page to write")
    chosen = parser.parse_args()
    photos = chosen.out / "photos"
    if not (photos / "done").exists():
        make(chosen.data, photos)
        write_text(photos / "done", "")
    shared: dict[str, Any] = {"flips": "all", "backbone": chosen.backbone, "channels": 64, "head_depth": 1}
    shared["val_every"] = 1_000_000  # once, at the end: in windows it takes long
    if chosen.backbone_weights is not None:
        shared |= {"backbone_weights": str(chosen.backbone_weights), "frozen_stages": 1, "backbone_lr": 0.3}
    file = chosen.result.with_suffix(".json")
    runs: dict[str, list[dict[str, Any]]] = read_json(file) if file.exists() else {}
    for name in chosen.sets:
        for seed in range(chosen.seeds):
            for rung in RUNGS:
                run = chosen.out / "runs" / f"{name}-{rung.slug}-{seed}"
                if run.name in runs and not (chosen.times and run.exists()):
                    print(f"{run.name}: measured before", flush=True)
                    continue
                trained = runs[run.name][0]["commit"] if run.name in runs else commit()
                found = measure(photos / name, run, rung, seed, shared, chosen.megapixels)
                runs[run.name] = [entry | {"commit": trained} for entry in found]
                write_json(file, runs)
    measured = [entry for rung in RUNGS for name in sorted(runs) if rung.slug in name for entry in runs[name]]
    write_text(chosen.result, page(measured, shared, chosen.megapixels))
    print(f"written: {chosen.result}")


def measure(
    data: Path, run: Path, rung: Rung, seed: int, shared: dict[str, Any], megapixels: int
) -> list[dict[str, Any]]:
    """Train if needed, and measure; return one entry per way to process the photos."""
    if not (run / "evaluation.json").exists():  # the last file that training writes
        config = TrainConfig(data=str(data), out=str(run), seed=seed, **rung.changes, **shared)
        train_or_continue(within_budget(config, megapixels))
    return [{"set": data.name, "way": way, "seed": seed, **result} for way, result in _ways(run, data, rung.name)]


def within_budget(config: TrainConfig, megapixels: int) -> TrainConfig:
    """The configuration with as many epochs as the budget pays for, and as many images a step as it can."""
    folder, unsaid = read_folder(config.data), lambda line: None  # train says it
    records, known = folder.splits["train"], with_tile(with_levels(config, folder, unsaid), folder, unsaid)
    if isinstance(known.tile, int):
        samples, pixels = windows_per_epoch(records, known.tile), known.tile**2
    else:
        scale = config.size / max(records[0].width, records[0].height)
        samples, pixels = len(records), round(records[0].width * records[0].height * scale**2)
    batch = min(MAX_BATCH, max(1, round(1e6 * STEP_MEGAPIXELS / pixels)))
    return replace(config, batch=batch, epochs=max(1, round(1e6 * megapixels / samples / pixels)))


def _ways(run: Path, data: Path, name: str) -> Iterator[tuple[str, dict[str, float | None]]]:
    detector = Detector.load(run, calibrated=False)
    detector = detector.with_score_threshold(detector.spec.evaluation_score)
    tiling = detector.tiling
    if tiling is None:
        yield name, ap_and_time(lambda photo: detector.detect([detector.prepare(photo)])[0], detector, data)
        return
    own = f"{name} of {tiling.tile} px"
    yield own, ap_and_time(lambda photo: look_at(detector, photo, tiling), detector, data)
    slicer = sliced(detector, tiling.tile, tiling.overlap)
    yield f"{own}, InferenceSlicer", ap_and_time(slicer, detector, data)


def sliced(detector: Detector, tile: int, overlap: int) -> Look:
    """supervision's windows around a detector, of the same size and overlap, and with the same suppression."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import supervision

    def in_slice(pixels: np.ndarray) -> Any:
        (found,) = detector.detect([detector.prepare(np.ascontiguousarray(pixels))])
        best = found.at(np.arange(min(len(found), SLICE_BOXES)))  # they are sorted
        return to_supervision(as_detections(best), detector.class_names)

    iou = detector.spec.postprocess.nms_iou or 0.6
    slicer = supervision.InferenceSlicer(in_slice, slice_wh=tile, overlap_wh=overlap, iou_threshold=iou)

    def look(photo: np.ndarray) -> DetectionArrays:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = slicer(photo)
        if found.confidence is None or not len(found):
            return DetectionArrays(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), None)
        order = np.argsort(-found.confidence, kind="stable")
        boxes, scores = found.xyxy[order].astype(np.float32), found.confidence[order].astype(np.float32)
        return DetectionArrays(boxes, scores, found.class_id[order].astype(np.int64), None)

    return look


def ap_and_time(look: Look, detector: Detector, data: Path) -> dict[str, float | None]:
    """AP on test, and seconds per megapixel without reading files."""
    folder = as_trained(read_folder(data), detector, lambda line: None)
    records, results = folder.splits["test"], []
    seconds = pixels = most = 0.0
    look(read_photo(records[0].path))  # the first photo of a size takes longer
    for key, record in zip(image_ids(records), records, strict=True):
        photo = read_photo(record.path)
        begin = time.perf_counter()
        found = look(photo)
        seconds += time.perf_counter() - begin
        pixels += record.width * record.height
        most = max(most, len(found))
        results += coco_results(key, found, category_ids(folder.class_names, folder.category_ids))
    truth = coco_truth(records, folder.class_names, folder.category_ids)
    metrics = average_precision(truth, results, max_detections=max(100, int(most))).metrics
    return {name: metrics[name] for name in METRICS} | {"seconds": 1e6 * seconds / pixels}


def page(measured: list[dict[str, Any]], shared: dict[str, Any], megapixels: int) -> str:
    """The result as Markdown: the mean of the seeds, and their range."""
    pretrained = " (pretrained, stage 1 frozen)" if "backbone_weights" in shared else ""
    lines = [
        "# Windows or whole photos",
        "",
        f"{provenance(given_command('benchmarks.windows.ap'))}.",
        "",
        f"GFL, {shared['backbone']}{pretrained}, towers of {shared['head_depth']} layer and "
        f"{shared['channels']} channels; each network was trained on {megapixels:,} megapixels, in steps of up to "
        f"{MAX_BATCH} images and about {STEP_MEGAPIXELS} megapixel. AP on the test split of BCCD's photos stitched to "
        "grids (stitch.py), mean and range over the seeds; small, medium and large are areas below 32², below 96² "
        "and above, in pixels of the photo. Seconds per megapixel are those of the network and of what is around it, "
        f"without reading files. Trained at commit {', '.join(sorted({entry['commit'] for entry in measured}))}.",
    ]
    for name, title in (("full", "At their own scale: 3,840 × 2,400 px"), ("fifth", "At a fifth: 768 × 480 px")):
        rows = [entry for entry in measured if entry["set"] == name]
        if not rows:
            continue
        lines += ["", f"## {title}", "", "| | seeds | AP | AP50 | small | medium | large | s/Mpx |", "|---" * 8 + "|"]
        for way in dict.fromkeys(entry["way"] for entry in rows):
            of_way = [entry for entry in rows if entry["way"] == way]
            cells = [_cell([entry[metric] for entry in of_way]) for metric in METRICS]
            seconds = f"{mean(entry['seconds'] for entry in of_way):.2f}"
            lines.append(f"| {way} | {len(of_way)} | {' | '.join([*cells, seconds])} |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float | None]) -> str:
    there = [value for value in values if value is not None]
    if not there:
        return "–"
    spread = f" ({min(there):.3f} to {max(there):.3f})" if len(there) > 1 else ""
    return f"{mean(there):.3f}{spread}"


if __name__ == "__main__":
    main()
