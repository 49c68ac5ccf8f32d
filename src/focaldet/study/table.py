"""A study in a terminal: the table of its results, and where it is."""

from collections.abc import Mapping, Sequence

from focaldet.runtime.results import COCO_DETECTIONS, named_limit
from focaldet.study.record import Line, Spread, Study, Summary

COLUMNS = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "rare_AP": "AP rare",
    "rank_score": "rank",
    "best_lost_threshold_share": "lost",
    "background_gradient_start": "background",
}
"""Number of a row -> its heading; the page has the others."""


def result_table(study: Study, summary: Summary) -> str:
    """Mean ± standard deviation of each rung over its seeds, what the columns mean, and the verdicts on AP."""
    if not summary["rows"]:
        return "no rung is finished yet"
    cells = [["rung", "seeds", *COLUMNS.values()]]
    for row in summary["rows"]:
        seeds = str(len(row["seeds"])) + (f" ({len(row['diverged'])} diverged)" if row["diverged"] else "")
        cells.append([row["rung"], seeds, *(_cell(row["numbers"][name]) for name in COLUMNS)])
    rare = study["class_names"][study["rare_label"]]
    lines = [
        f"{study['split']} split: {study['photos'][study['split']]} photos; mean ± standard deviation over seeds; AP"
        f"{named_limit(study.get('max_detections', COCO_DETECTIONS)) or ' as COCO defines it'}",
        *_aligned(cells),
        f"AP rare: of {rare}, the class with the fewest objects to train on",
        "rank: correlation of score and true IoU among the boxes of an object; lost: share of the objects whose better "
        "box the suppression dropped",
        "background: its share of the class loss's gradient, before the first step",
    ]
    lines += [comparison["sentence"] for comparison in summary["comparisons"] if comparison["number"] == "AP"]
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
    """A row a rung, a column a seed: its AP, what its process said last, or a point for what is still to come."""
    done = {(line["rung"], line["seed"]): line for line in lines}
    cells = [["rung", *(f"seed {seed}" for seed in study["seeds"])]]
    for rung in study["rungs"]:
        keys = [(rung["name"], seed) for seed in study["seeds"]]
        cells.append([rung["name"], *(_state(done.get(key), key in running) for key in keys)])
    said = [f"{rung}, seed {seed}: {words}"[:width] for (rung, seed), words in running.items()]
    return [line[:width] for line in _aligned(cells)] + said


def _state(line: Line | None, running: bool) -> str:
    if line is None:
        return "running" if running else "·"
    ap = line["metrics"]["AP"]
    return "diverged" if line["diverged"] else "AP –" if ap is None else f"AP {ap:.3f}"


def time_left(study: Study, lines: Sequence[Line], parallel: int) -> str:
    """About how long the rest takes, by what the finished ones took; empty before it can be told."""
    minutes = [line["cost"]["minutes"] for line in lines] or [study["settings"]["minutes"] or 0.0]
    left = (len(study["rungs"]) * len(study["seeds"]) - len(lines)) * sum(minutes) / len(minutes) / parallel
    if not left:
        return ""
    return f"about {left / 60:.1f} hours left" if left >= 90 else f"about {max(left, 1):.0f} minutes left"
