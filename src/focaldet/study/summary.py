"""Mean and spread of each rung over its seeds or folds, and comparisons with the previous rung, from the lines."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from focaldet.evaluation.statistics import Interval, paired_interval, welch_interval
from focaldet.records.study import FORMAT, Comparison, Line, Row, RungRow, Spread, Study, Summary

Numbers = dict[str, float | None]
"""All numbers of one line, by name."""

COMPARED = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "rare_AP": "AP of the rarest class",
    "rank_score": "the rank correlation of score and IoU",
    "best_lost_threshold_share": "the share of objects that lose a better box to NMS",
    "band_px": "the width in pixels of the band around a side that contains 90 % of the boxes",
    "background_gradient_start": "the background's share of the first gradient",
    "background_gradient_end": "the background's share of the gradient at the end",
}
"""Key of a number -> its name in sentences."""


def summarise(study: Study, lines: Sequence[Line]) -> Summary:
    """Summarise the existing lines of a study. If a rung and seed have several lines, the last one counts."""
    latest = {(line["rung"], line["seed"]): line for line in lines}
    rows, measured = [], {}
    for rung in study["rungs"]:
        name = rung["name"]
        own = [latest[name, seed] for seed in study["seeds"] if (name, seed) in latest]
        if own:
            measured[name] = {line["seed"]: numbers_of(study, line) for line in own}
            rows.append(_row(rung, own, list(measured[name].values())))
    comparisons = [
        comparison
        for rung in study["rungs"]
        for number in COMPARED
        if (comparison := compare(study, rung, number, measured)) is not None
    ]
    summary = Summary(format=FORMAT, rows=rows, comparisons=comparisons)
    if "folds" in study:
        names = [row["rung"] for row in rows if row["numbers"]["AP"]["values"]]
        summary["tied"] = {
            one: [other for other in names if other != one and not _differs(study, measured[one], measured[other])]
            for one in names
        }
    return summary


def _row(rung: RungRow, lines: Sequence[Line], numbers: Sequence[Numbers]) -> Row:
    return Row(
        rung=rung["name"],
        title=rung["title"],
        group=rung["group"],
        seeds=[line["seed"] for line in lines],
        diverged=[line["seed"] for line in lines if line["diverged"] is not None],
        numbers={name: spread([each[name] for each in numbers]) for name in numbers[0]},
    )


def spread(values: Sequence[float | None]) -> Spread:
    """Mean and standard deviation of the values that are not ``None``.

    >>> spread([0.5, None, 0.7])
    {'values': [0.5, 0.7], 'mean': 0.6, 'std': 0.141421}
    """
    known = [value for value in values if value is not None]
    return Spread(
        values=known,
        mean=round(float(np.mean(known)), 6) if known else None,
        std=round(float(np.std(known, ddof=1)), 6) if len(known) > 1 else None,
    )


def numbers_of(study: Study, line: Line) -> Numbers:
    """All numbers of one line."""
    numbers: Numbers = dict(line["metrics"])
    per_class = {row["name"]: row["AP"] for row in line["per_class"]}
    numbers["rare_AP"] = per_class.get(study["class_names"][study["rare_label"]])
    for name in study["class_names"]:
        numbers[f"AP {name}"] = per_class.get(name)
    ranking, deviations, cost = line["ranking"], line["deviations"], line["cost"]
    numbers |= {
        "rank_class": ranking and ranking["class_score"]["per_object"],
        "rank_score": ranking and ranking["score"]["per_object"],
        "rank_score_pooled": ranking and ranking["score"]["pooled"],
        "best_lost_share": ranking and _share(ranking["best_lost"], ranking["candidates_objects"]),
        "best_lost_threshold_share": ranking and _share(ranking["best_lost_threshold"], ranking["candidates_objects"]),
        "oracle_AP": ranking and ranking["oracle_AP"],
        "deviation_correlation": deviations and deviations["correlation"],
        "deviation_correlation_relative": deviations and deviations["correlation_relative"],
        "band_px": _width(line, "deviation") or _width(line, "size"),
        "band_size_px": _width(line, "size"),
        "step_s": round(sum(cost["seconds"].values()), 6) if cost["seconds"] else None,
        "peak_memory_mb": cost["peak_memory_mb"],
    }
    for when, measured in (("start", line["imbalance_start"]), ("end", line["imbalance_end"])):
        numbers[f"background_loss_{when}"] = measured and measured["own"]["loss_share"]
        numbers[f"background_gradient_{when}"] = measured and measured["own"]["gradient_share"]
    return numbers


def _width(line: Line, scale: Literal["deviation", "size"]) -> float | None:
    measured = line["bands"][scale] if "bands" in line else None  # lines of an older version have none
    return measured and measured["width_px"]


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def compare(
    study: Study, rung: RungRow, number: str, measured: Mapping[str, Mapping[int, Numbers]]
) -> Comparison | None:
    """Compare one number of a rung with the previous rung; ``None`` if either has no value.

    A difference counts if its 95 % interval excludes 0. Over seeds, it is the interval of Welch's t-test. Over folds,
    rungs are compared fold by fold, since both have the same photos there, and the interval is corrected for
    trainings that share photos. With few seeds or folds it is wide, and about one in twenty comparisons without a
    true difference still shows one.

    Args:
        number: a key of ``COMPARED``.
        measured: rung -> seed -> its numbers.
    """
    name, before = rung["name"], str(rung["compared_with"])
    here, there = _values(study, measured.get(name, {}), measured.get(before, {}), number)
    if not here or not there:
        return None
    if "folds" in study:
        counts = _count(len(here), "fold")
    elif len(here) != len(there):
        counts = f"{len(here)} and {len(there)} seeds"
    else:
        counts = f"{_count(len(here), 'seed')} each"
    interval = _interval(study, here, there)
    comparison = Comparison(
        rung=name,
        before=before,
        number=number,
        difference=round(float(np.mean(here) - np.mean(there)), 6),
        low=None if interval is None else round(interval.low, 6),
        high=None if interval is None else round(interval.high, 6),
        verdict="unknown",
        sentence="",
    )
    if interval is not None:
        comparison["verdict"] = "higher" if interval.low > 0 else "lower" if interval.high < 0 else "within the spread"
    titles = {row["name"]: row["title"] for row in study["rungs"]}
    comparison["sentence"] = _sentence(comparison, f"{titles[name]} vs. {titles[before]}", counts)
    return comparison


def _values(
    study: Study, here: Mapping[int, Numbers], there: Mapping[int, Numbers], number: str
) -> tuple[list[float], list[float]]:
    """Values of a number for two rungs; over folds, only of the folds that both have, in the same order."""
    a, b = (
        {seed: value for seed, numbers in one.items() if (value := numbers[number]) is not None}
        for one in (here, there)
    )
    if "folds" in study:
        both = [seed for seed in a if seed in b]
        return [a[seed] for seed in both], [b[seed] for seed in both]
    return list(a.values()), list(b.values())


def _interval(study: Study, here: Sequence[float], there: Sequence[float]) -> Interval | None:
    """Difference of two rungs with its interval; the values are those of ``_values``."""
    if "folds" not in study:
        return welch_interval(here, there)
    training_folds = len(study["folds"]) - 2  # one is val
    return paired_interval(np.subtract(here, there).tolist(), 1 / training_folds)


def _differs(study: Study, here: Mapping[int, Numbers], there: Mapping[int, Numbers]) -> bool:
    """Whether the APs of two rungs differ beyond the interval."""
    interval = _interval(study, *_values(study, here, there, "AP"))
    return interval is not None and not interval.low <= 0 <= interval.high


def _count(count: int, unit: str) -> str:
    return f"one {unit}" if count == 1 else f"{count} {unit}s"


def _sentence(comparison: Comparison, who: str, counts: str) -> str:
    what, difference, verdict = COMPARED[comparison["number"]], comparison["difference"], comparison["verdict"]
    if verdict == "unknown":
        return f"{who}: {what} differs by {difference:+.3f} with {counts}; without a spread, this may be chance."
    interval = f"95 % interval {comparison['low']:+.3f} to {comparison['high']:+.3f}, {counts}"
    if verdict == "within the spread":
        return f"{who}: {what} differs by {difference:+.3f}, within the spread ({interval}), so it may be chance."
    return f"{who}: {what} is {verdict} by {abs(difference):.3f} ({interval})."
