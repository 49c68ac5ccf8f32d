"""A study in a terminal: its table of results and its progress."""

from collections.abc import Mapping, Sequence

from focaldet.records.study import TESTS, Line, Spread, Study, Summary
from focaldet.runtime.results import COCO_DETECTIONS, named_limit
from focaldet.study.folds import training_name, unit

COLUMNS = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "rare_AP": "AP rare",
    "rank_score": "rank",
    "best_lost_threshold_share": "lost",
    "background_gradient_start": "background",
}
"""Key of a number -> its heading; the page shows the other numbers."""


def result_table(study: Study, summary: Summary) -> str:
    """Mean ± standard deviation of each rung over its trainings, a legend of the columns, and comparisons of AP."""
    if not summary["rows"]:
        return "no rung has finished yet"
    photos, over = study["photos"], f"{unit(study)}s"
    cells = [["rung", over, *COLUMNS.values()]]
    for row in summary["rows"]:
        count = str(len(row["seeds"])) + (f" ({len(row['diverged'])} diverged)" if row["diverged"] else "")
        cells.append([row["rung"], count, *(_cell(row["numbers"][name]) for name in COLUMNS)])
    rare = study["class_names"][study["rare_label"]]
    measured = (
        f"{len(study['folds'])} folds: {sum(photos.values()):,} photos"
        if "folds" in study
        else f"{study['split']} split: {photos[study['split']]:,} photos"
    )
    lines = [
        f"{measured}; mean ± standard deviation over {over}; AP"
        f"{named_limit(study.get('max_detections', COCO_DETECTIONS)) or ' as COCO defines it'}",
        *_aligned(cells),
        f"AP rare: AP of {rare}, the class with the fewest training objects",
        "rank: rank correlation of score and true IoU among the boxes of an object",
        "lost: share of the objects that lose a better box to non-maximum suppression",
        "background: its share of the gradient of the class loss before the first step",
    ]
    sentences = [comparison["sentence"] for comparison in summary["comparisons"] if comparison["number"] == "AP"]
    lines += [f"95 % interval: {TESTS[unit(study)]}"] * bool(sentences) + sentences
    return "\n".join(lines)


def _cell(spread: Spread) -> str:
    if spread["mean"] is None:
        return "–"
    return f"{spread['mean']:.3f}" + (f"±{spread['std']:.3f}" if spread["std"] is not None else "")


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def progress_table(
    study: Study, lines: Sequence[Line], running: Mapping[tuple[str, int], str], width: int = 120
) -> list[str]:
    """One row per rung, one column per training: the AP, ``running``, or a dot; then the last line of each process."""
    done = {(line["rung"], line["seed"]): line for line in lines}
    cells = [["rung", *(training_name(study, seed) for seed in study["seeds"])]]
    for rung in study["rungs"]:
        keys = [(rung["name"], seed) for seed in study["seeds"]]
        cells.append([rung["name"], *(_state(done.get(key), key in running) for key in keys)])
    said = [f"{rung}, {training_name(study, seed)}: {words}"[:width] for (rung, seed), words in running.items()]
    return [line[:width] for line in _aligned(cells)] + said


def _state(line: Line | None, running: bool) -> str:
    if line is None:
        return "running" if running else "·"
    ap = line["metrics"]["AP"]
    return "diverged" if line["diverged"] else "AP –" if ap is None else f"AP {ap:.3f}"


def time_left(study: Study, lines: Sequence[Line], parallel: int) -> str:
    """Estimate of the remaining time, from the finished runs; empty if it is unknown."""
    minutes = [line["cost"]["minutes"] for line in lines] or [study["settings"]["minutes"] or 0.0]
    left = (len(study["rungs"]) * len(study["seeds"]) - len(lines)) * sum(minutes) / len(minutes) / parallel
    if not left:
        return ""
    return f"about {left / 60:.1f} hours left" if left >= 90 else f"about {max(left, 1):.0f} minutes left"
