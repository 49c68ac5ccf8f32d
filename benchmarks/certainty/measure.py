"""Measurements of one calibrated run on the test split, and on blurred and darker copies of its photos."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageEnhance, ImageFilter

from focaldet.data.folder import read_folder
from focaldet.data.records import ImageRecord
from focaldet.data.truth import coco_truth
from focaldet.engine.detector import Detector
from focaldet.engine.evaluate import evaluate_run
from focaldet.evaluation.certainty import calibrate, measured_scores
from focaldet.evaluation.matching import match_run
from focaldet.evaluation.scored import pooled, scored_by_class
from focaldet.records.calibration import PERCENTS, Calibration, read_calibration
from focaldet.records.run_files import Run, read_run
from focaldet.runtime.results import coco_results
from focaldet.runtime.shift import FALSE_ALARMS, least_scores, photo_sample, shift_chance

PROMISED = 90
"""Precision and recall to check, in percent."""

CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as they are": lambda photo: photo,
    "blurred, radius 4": lambda photo: photo.filter(ImageFilter.GaussianBlur(4)),
    "blurred, radius 8": lambda photo: photo.filter(ImageFilter.GaussianBlur(8)),
    "half as bright": lambda photo: ImageEnhance.Brightness(photo).enhance(0.5),
    "0.3 times as bright": lambda photo: ImageEnhance.Brightness(photo).enhance(0.3),
}


def measure(run: Path, data: Path) -> dict[str, Any]:
    """All measurements of a run, as JSON."""
    calibration = read_calibration(run)
    if calibration is None or calibration.report is None or calibration.bands is None:
        raise SystemExit(
            f"{run}: has no calibration with bands; train longer, or focaldet calibrate {run} --data {data}"
        )
    report = evaluate_run(run, data, "test", say=lambda line: None)
    evaluated = read_run(run)
    found = measured_scores(calibration, evaluated)
    again = calibrate(evaluated, data="", split="test")
    assert found is not None
    assert again is not None
    assert again.report is not None
    folder = read_folder(data)
    return {
        "ap": report["metrics"]["AP"],
        "error": found["error"],
        "sides": found["sides"],
        "scale": calibration.bands.scale,
        "widths": {
            split: {
                scale: row["box_width_px"]
                for scale, rows in one.report["sides"].items()
                for row in rows
                if row["promised"] == PROMISED / 100
            }
            for split, one in (("val", calibration), ("test", again))
        },
        "laece0": {"val": calibration.report["scores"]["laece0"], "test": again.report["scores"]["laece0"]},
        "laace0": {"val": calibration.report["scores"]["laace0"], "test": again.report["scores"]["laace0"]},
        "kept": promises(calibration, evaluated),
        "changed": changed(run, calibration, folder.splits["test"], list(folder.class_names)),
    }


def promises(calibration: Calibration, run: Run) -> list[str]:
    """Precision and recall on test, next to the promised ones."""
    kept = []
    index = PERCENTS.index(PROMISED)
    classes = scored_by_class(match_run(run), len(calibration.class_names))
    for name, one, each in zip(calibration.class_names, classes, calibration.thresholds, strict=True):
        if (threshold := each.precision.thresholds[index]) is not None:
            right = one.right[one.scores >= threshold]
            kept.append(f"{name}: precision {right.mean():.3f} ({int(right.sum())} of {len(right)})")
        if (threshold := each.recall.thresholds[index]) is not None:
            hits = one.object_scores >= threshold
            kept.append(f"{name}: recall {hits.mean():.3f} ({int(hits.sum())} of {len(hits)})")
    return kept


def changed(
    run: Path, calibration: Calibration, records: tuple[ImageRecord, ...], class_names: list[str]
) -> dict[str, dict[str, Any]]:
    """For each change of the photos: what --check-shift says, and whether the numbers still hold."""
    detector = Detector.load(run, score_threshold=calibration.least_score, calibrated=False)
    truth = coco_truth(records, class_names)
    least = least_scores(calibration.thresholds, calibration.least_score)
    rows = {}
    for name, change in CHANGES.items():
        results, sample = [], []
        for record, image in zip(records, truth["images"], strict=True):
            with Image.open(record.path) as opened:
                found = detector.predict(change(opened.convert("RGB")))
            results += coco_results(image["id"], found)
            stds = None if found.side_std_px is None else found.side_std_px.numpy()
            arrays = (found.scores.numpy(), found.labels.numpy(), found.boxes_xyxy.numpy(), stds)
            sample.append(photo_sample(*arrays, least))
        chance = shift_chance(calibration.sample, sample)
        seen = Run(run, truth=truth, predictions=results)
        measured = measured_scores(calibration, seen)
        assert measured is not None
        classes = scored_by_class(match_run(seen), len(class_names))
        hits = pooled([one.at_least(t.best_f1) for one, t in zip(classes, calibration.thresholds, strict=True)])
        row = next(row for row in measured["sides"] if row["promised"] == PROMISED / 100)
        rows[name] = {
            "p": chance,
            "warned": chance <= FALSE_ALARMS,
            "covered": row["box_inside"] / max(row["box_count"], 1),
            "boxes": row["box_count"],
            "recall": float((hits.object_scores >= 0).mean()),
            "error": measured["error"][1],
        }
    return rows
