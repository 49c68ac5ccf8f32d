"""The charts of a study: the neuron, losses and gradients, the imbalance, learning curves, parameter sweeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes

from focaldet.records.run_files import Json, mapping, metric, rows
from focaldet.records.study_files import Rung, percent
from focaldet.report.charts import INK, LINES, RULE, calibration_chart, chart, line_chart

Captioned = list[tuple[str, Markup]]

_SMALL_INCHES = (2.6, 1.9)


@dataclass(frozen=True)
class Group:
    """Two charts that belong together, with an explanation."""

    heading: str
    charts: Captioned
    words: Markup


def neuron_charts(neuron: Json) -> list[Group]:
    """Output and gradient of one neuron during training: first from the saturated start, then from the other one."""
    groups = []
    starts = dict.fromkeys(curve["start"] for curve in neuron["curves"])
    for start in sorted(starts, key=lambda start: start != "saturated"):
        taught = {curve["cost"]: curve for curve in neuron["curves"] if curve["start"] == start}
        slow, fast = taught["quadratic"], taught["cross entropy"]
        output, wanted = slow["outputs"][0], slow["y"]
        heading = f"{'Saturated' if start == 'saturated' else 'Not saturated'}: output {output:.2f}, target {wanted:g}"
        half = f"Steps to halve the error: {halfway(slow)} with the quadratic cost, {halfway(fast)} with cross entropy."
        charts: Captioned = []
        for field, y_label, caption in (("outputs", "output a", "Output"), ("gradients", "∂C/∂w", "Gradient")):
            drawn = line_chart(
                f"neuron-{start}-{field}",
                f"{heading}. {caption} by step",
                {cost: ([*map(float, range(len(curve[field])))], curve[field]) for cost, curve in taught.items()},
                "step",
                y_label,
                y_range=(0, 1.02),
                description=half,
            )
            charts += [(caption, drawn)] if drawn else []
        first = " and ".join(f"{abs(curve['gradients'][0]):.3f} with {cost}" for cost, curve in taught.items())
        groups.append(Group(heading, charts, escape(f"{half} The first gradient is {first}.")))
    return groups


def halfway(curve: Json) -> str:
    """The number of steps until the error of a neuron is halved, in words."""
    steps = curve["steps_to_half"]
    return f"more than {len(curve['outputs'])}" if steps is None else f"{steps}"


def family_charts(neuron: Json) -> list[Group]:
    """The losses and their derivatives, kind by kind."""
    kinds: dict[str, dict[str, Json]] = {kind: {} for kind in _KINDS}
    for curve in rows(neuron["family"]):
        for kind, name in _kinds_of(curve).items():
            kinds[kind][name] = curve
    groups = []
    for kind, curves in kinds.items():
        heading, words = _KINDS[kind]
        if curves:
            charts = _loss_and_gradient(f"family-{kind}", heading, curves, neuron["logits"], "logit z")
            groups.append(Group(heading, charts, words))
    sides = {f"y = {curve['label']:g}": curve for curve in rows(neuron["distribution"])}
    if sides:
        heading, words = _TWO_BINS
        probabilities = next(iter(sides.values()))["probabilities"]
        minima = " and ".join(f"{curve['minimum_at']:g} for {name}" for name, curve in sides.items())
        charts = _loss_and_gradient("family-sides", heading, sides, probabilities, "probability of the right bin")
        groups.append(Group(heading, charts, words + f" Here it is at {minima}."))
    return groups


_KINDS = {
    "positive": (
        "A positive, y = 1",
        Markup(
            "Quadratic cost: (y − p)² / 2. Its derivative vanishes on the left, where the error is largest. "
            "Cross entropy: −log p; its derivative there is −1. Focal loss: −(1 − p)<sup>γ</sup> log p. The larger γ "
            "is, the weaker the gradient on the right, where the prediction is already correct."
        ),
    ),
    "negative": (
        "A negative, y = 0",
        Markup(
            "The mirror image. Most locations of a detector are background, far on the left. There, −log(1 − p) "
            "still has a small gradient, at thousands of locations; −p<sup>γ</sup> log(1 − p) has almost none."
        ),
    ),
    "alpha": (
        "Focal loss with α and without, γ = 2",
        Markup(
            "Positives are weighted by α, negatives by 1 − α. The usual 0.25 gives the rare positives the smaller "
            "weight, because γ has already down-weighted the negatives."
        ),
    ),
    "quality1": (
        "Quality focal loss, β = 1",
        Markup(
            "−|y − p|<sup>β</sup> [ (1 − y) log(1 − p) + y log p ], where y is the IoU of the box. The minimum is "
            "at p = y; with β = 1 it is a kink."
        ),
    ),
    "quality2": (
        "Quality focal loss, β = 2",
        Markup(
            "The usual β. The loss is flat around the label, so predictions that are nearly correct count little. For "
            "y = 0 and y = 1 it is focal loss without α."
        ),
    ),
}
"""Kind of curve -> heading and explanation."""

_TWO_BINS = (
    "Distribution focal loss, two bins",
    Markup(
        "−[ (y<sub>i+1</sub> − y) log S<sub>i</sub> + (y − y<sub>i</sub>) log S<sub>i+1</sub> ]: cross entropy over "
        "the two bins around y. The minimum is where the mean of the distribution is y."
    ),
)


def _kinds_of(curve: Json) -> dict[str, str]:
    """The kinds in ``_KINDS`` that a curve belongs to, and its name in each."""
    y, alpha, beta, gamma = curve["target"], *map(curve["parameters"].get, ("alpha", "beta", "gamma"))
    if beta is not None:
        return {f"quality{beta:g}": f"y = {y:g}"} if f"quality{beta:g}" in _KINDS else {}
    kinds = {"alpha": f"y = {y:g}, " + (f"α = {alpha:g}" if alpha else "no α")} if gamma == 2 else {}
    if alpha is None:
        kinds["positive" if y == 1 else "negative"] = curve["title"] if gamma is None else f"γ = {gamma:g}"
    return kinds


def _loss_and_gradient(key: str, heading: str, curves: Mapping[str, Json], x: list[float], x_label: str) -> Captioned:
    charts: Captioned = []
    for field, y_label, caption in (
        ("values", "loss", "Loss"),
        ("gradients", "∂loss/∂z", "Derivative with respect to the logit"),
    ):
        series = {name: (x, curve[field]) for name, curve in curves.items()}
        ends = "; ".join(f"{name} from {y[0]:.3g} to {y[-1]:.3g}" for name, (_, y) in series.items())
        words = f"From {x_label} {x[0]:g} to {x[-1]:g}: {ends}."
        title = f"{heading}: {caption.lower()}"
        drawn = line_chart(f"{key}-{field}", title, series, x_label, y_label, description=words)
        charts += [(caption, drawn)] if drawn else []
    return charts


def imbalance_charts(details: Json) -> list[Group]:
    """Cumulative losses of background and objects, before the first step and at the end."""
    groups = []
    for kind in ("background", "objects"):
        charts: Captioned = []
        hardest: list[str] = []
        for when, caption in (("start", "before the first step"), ("end", "at the end")):
            curves = mapping(details.get(f"curves_{when}"))
            series = {
                "cross entropy" if loss["gamma"] == 0 else f"γ = {loss['gamma']:g}": (curves["fractions"], loss[kind])
                for loss in rows(curves.get("losses"))
                if loss[kind]
            }
            tenth = {name: 1 - float(np.interp(0.9, x, y)) for name, (x, y) in series.items()}
            shares = ", ".join(f"{percent(share)} with {name}" for name, share in tenth.items())
            drawn = line_chart(
                f"cumulative-{kind}-{when}",
                f"Cumulative loss of the {kind}, {caption}",
                series,
                f"share of the {kind}, easiest first",
                "share of its loss" if kind == "background" else "share of their loss",
                x_range=(0, 1),
                y_range=(0, 1.02),
                description=f"Share of the loss in the hardest tenth: {shares}.",
            )
            if drawn:
                charts.append((caption.capitalize(), drawn))
                words_of = {"cross entropy": "of cross entropy", "γ = 2": "of focal loss with γ = 2"}
                ends = [f"{percent(tenth[name])} {words}" for name, words in words_of.items() if name in tenth]
                hardest.append(f"{' and '.join(ends)} {caption}")
        if charts:
            words = f"The hardest tenth of the {kind} accounts for {'; '.join(hardest)}."
            groups.append(Group(kind.capitalize(), charts, escape(words)))
    return groups


def learning_charts(ladder: Sequence[Rung], by: Literal["minutes", "epochs"]) -> Captioned:
    """Validation AP by minutes or epochs: each rung in front of all the others, on the same axes."""
    curves = {rung.name: _learning(rung, by) for rung in ladder}
    points = [point for x_y in curves.values() for point in zip(*x_y, strict=True)]
    if not points:
        return []
    right, top = 1.03 * max(x for x, _ in points), 1.08 * max(max(y for _, y in points), 0.01)
    charts: Captioned = []
    for rung in ladder:
        x, y = curves[rung.name]
        if not x:
            continue

        def draw(axes: Axes, name: str = rung.name, x: list[float] = x, y: list[float] = y) -> None:
            for other, (a, b) in curves.items():
                if other != name:
                    axes.plot(a, b, color=RULE, linewidth=1.4)
            axes.plot(x, y, color=LINES[0], linewidth=2.2, marker="o", markersize=3, clip_on=False)
            axes.set(xlabel=by, ylabel="AP on val", xlim=(0, right), ylim=(0, top))
            axes.locator_params(nbins=4)

        words = ", ".join(f"{b:.3f} after {a:.3g}" for a, b in zip(x, y, strict=True))
        description = f"{rung.title}: AP on the validation split by {by} of training: {words}."
        charts.append((rung.title, chart(f"learning-{rung.name}", description, draw, size_inches=_SMALL_INCHES)))
    return charts


def _learning(rung: Rung, by: Literal["minutes", "epochs"]) -> tuple[list[float], list[float]]:
    history = rows(rung.details.get("history"))
    measured = [(m["minutes"] if by == "minutes" else m["epoch"] + 1, metric(m["AP"])) for m in history]
    known = [(x, y) for x, y in measured if y is not None]
    return [x for x, _ in known], [y for _, y in known]


def sweep_chart(key: str, what: str, rungs: Mapping[float, Rung]) -> Markup | None:
    """AP by the value of one option, with a dot per seed and a line through the means.

    Args:
        what: name of the option, such as ``"γ"``.
        rungs: value of the option -> the rung with that value.
    """
    known = [(str(f"{value:g}"), rung["AP"]) for value, rung in sorted(rungs.items()) if rung["AP"]]
    measured = [(name, spread) for name, spread in known if spread]
    if len(measured) < 2:
        return None

    def draw(axes: Axes) -> None:
        places = range(len(measured))
        axes.plot(places, [spread.mean for _, spread in measured], color=LINES[0])
        for i, (_, spread) in enumerate(measured):
            axes.plot([i] * len(spread.values), spread.values, "o", color=INK, markersize=4)
        axes.set_xticks(list(places), [name for name, _ in measured])
        axes.set(xlabel=what, ylabel="AP")

    words = ", ".join(f"{spread} at {name}" for name, spread in measured)
    return chart(key, f"AP by {what}: {words}.", draw)


def deciles_chart(rungs: Sequence[Rung]) -> Markup | None:
    """Error of the sides against the predicted standard deviation, by tenths, for every rung with distributions."""
    measured = {}
    for rung in rungs:
        if deciles := rows(rung.details.get("deciles")):
            columns = [[decile[name] for decile in deciles] for name in ("deviation_px", "error_px")]
            measured[rung.title] = (np.array(columns[0], np.float64), np.array(columns[1], np.float64))
    return calibration_chart("deciles", measured) if measured else None
