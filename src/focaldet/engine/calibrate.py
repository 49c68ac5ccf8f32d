"""``focaldet calibrate``: measure on labelled photos how reliable a run's scores and sides are."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from focaldet.checks import InputError
from focaldet.data.folder import read_folder
from focaldet.data.records import DataFolder, ImageRecord
from focaldet.engine.evaluate import DetectedSplit, detect_split
from focaldet.engine.hub import check_local
from focaldet.engine.splits import recorded_splits, trained_count, with_recorded_splits
from focaldet.evaluation.certainty import calibrate
from focaldet.evaluation.score_calibration import MIN_PLATT
from focaldet.records.calibration import FILE, Calibration, remove_calibration, write_calibration
from focaldet.records.run_files import Run


def calibrate_run(run: Path, data: Path, split: str = "val", *, say: Callable[[str], None] = print) -> Calibration:
    """Calibrate a run on labelled photos that did not train it, and write ``calibration.json``.

    If the folder has no splits of its own, the splits recorded by the run are used, and unrecorded photos belong to the
    split. Without a record, all photos do.

    Raises:
        InputError: as ``evaluate_run``, or photos of the split trained the run, or too few objects are found.
    """
    check_local(run, "calibrate")
    folder = read_folder(data)
    recorded = recorded_splits(run, folder)
    if recorded:
        folder = with_recorded_splits(folder, recorded, new=split)
    elif split in folder.made_splits:
        photos: dict[ImageRecord, None] = dict.fromkeys(r for records in folder.splits.values() for r in records)
        folder = replace(folder, splits={split: tuple(photos)}, split_origin="the folder has no splits: all photos")
    if split in folder.made_splits:
        say(folder.split_origin)
    if count := trained_count(folder.splits.get(split, ()), recorded):
        raise InputError(f"{count}; a calibration on them would promise too much: choose another --split or --data")
    calibration = _calibrate(run, detect_split(run, folder, split, say=say), data, say)
    if calibration is None:
        raise InputError(f"{data}: the run finds fewer than {MIN_PLATT} of its objects; {FILE} needs more to be useful")
    return calibration


def calibrate_on_val(run: Path, folder: DataFolder, detected: DetectedSplit, say: Callable[[str], None]) -> None:
    """Calibrate a trained run on the validation split.

    If too few objects are found, a line says so and there is no calibration.

    Args:
        detected: detections of the run on that split.
    """
    remove_calibration(run)
    if count := trained_count(folder.splits["val"], recorded_splits(run, folder)):
        say(f"not calibrated: {count}; calibrate it on new ones: {_command(run)}")
    elif _calibrate(run, detected, folder.root, say) is None:
        say(f"not calibrated: fewer than {MIN_PLATT} objects of val are found; calibrate it on more: {_command(run)}")


def _calibrate(run: Path, detected: DetectedSplit, data: Path, say: Callable[[str], None]) -> Calibration | None:
    """Calibrate on detections and write the file; ``None`` if too few objects are found."""
    calibration = calibrate(
        Run(run, truth=detected.truth, predictions=detected.results),
        data=f"{len(detected.dataset)} photos of {data.resolve().name}, split {detected.split}",
        split=detected.split,
        least_score=detected.least_score,
    )
    if calibration is not None:
        write_calibration(run, calibration)
        for line in calibration_lines(calibration):
            say(line)
    return calibration


def calibration_lines(calibration: Calibration) -> list[str]:
    """Summary of a calibration for a terminal."""
    report = calibration.report or {}
    lines = [f"calibrated on {calibration.data}: {calibration.objects:,} objects"]
    scores = report.get("scores", {})
    if calibration.maps and None not in scores.get("error", [None]):
        before, after = scores["error"]
        lines.append(f"scores are off by {before:.3f} on average; calibrated, by {after:.3f}")
    chosen = ", ".join(
        f"{name} {each.best_f1:.2f}"
        for name, each in list(zip(calibration.class_names, calibration.thresholds, strict=True))[:_FEW]
    )
    more = len(calibration.class_names) - _FEW
    lines.append(f"scores with the best F1: {chosen}" + (f" and {more} more classes" if more > 0 else ""))
    rows = report.get("sides", {}).get(calibration.bands.scale, []) if calibration.bands else []
    measured = ", ".join(
        f"{row['box_inside'] / row['box_count']:.1%} for {row['promised']:.0%}" for row in rows if row["box_count"]
    )
    if measured:
        lines.append(f"bands that contain the whole true box: {measured}")
    elif calibration.bands is None:
        lines.append("too few boxes for bands around the sides")
    return lines


_FEW = 6


def _command(run: Path) -> str:
    return f"focaldet calibrate {run} --data DIR"
