"""The charts of a study: the neuron, the losses and their gradients, the imbalance, learning, extra questions."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from focaldet.report.charts import INK, LINES, RULE, calibration_chart, chart, line_chart
from focaldet.report.run_files import Json, metric, rows
from focaldet.report.study_files import Rung

Captioned = list[tuple[str, Markup]]

_SMALL_INCHES = (3.0, 2.0)


def neuron_charts(neuron: Json) -> Captioned:
    """What one neuron puts out, and the gradient it is taught by, from each start."""
    charts: Captioned = []
    starts = dict.fromkeys(curve["start"] for curve in neuron["curves"])
    for start in sorted(starts, key=lambda start: start != "saturated"):
        of_start = [curve for curve in neuron["curves"] if curve["start"] == start]
        first = of_start[0]
        name = "saturated" if start == "saturated" else "unsaturated"
        words = f"{name} start: {first['outputs'][0]:.2f}, not {first['y']:g}"
        for field, y_label, what in (
            ("outputs", "output a", "Output"),
            ("gradients", "∂C/∂w", "Gradient on the weight"),
        ):
            series = {curve["cost"]: ([float(i) for i in range(len(curve[field]))], curve[field]) for curve in of_start}
            half = "; ".join(f"{curve['cost']}: {halfway(curve)}" for curve in of_start)
            drawn = line_chart(
                f"neuron-{start}-{field}",
                f"{what} by step, {words}",
                series,
                "step",
                y_label,
                y_range=(0, 1.02),
                description=f"Steps to half of the error: {half}.",
            )
            charts += [(f"{what}, {words}", drawn)] if drawn else []
    return charts


def halfway(curve: Json) -> str:
    """When the output of a neuron has come half of the way, in words."""
    steps = curve["steps_to_half"]
    return f"more than {len(curve['outputs'])}" if steps is None else f"{steps}"


def family_charts(neuron: Json) -> list[tuple[str, Captioned]]:
    """(heading, the loss and its derivative) for each part of the family."""
    logits, family = neuron["logits"], rows(neuron["family"])

    def wanted(test: Callable[[Json], bool]) -> list[Json]:
        return [curve for curve in family if test(curve)]

    def alpha(curve: Json) -> bool:
        return curve["parameters"].get("alpha") is not None

    def quality(curve: Json) -> bool:
        return bool(curve["loss"] == "quality_focal_loss")

    parts = {
        "A positive, y = 1": wanted(lambda c: c["target"] == 1 and not quality(c) and not alpha(c)),
        "A negative, y = 0": wanted(lambda c: c["target"] == 0 and not quality(c) and not alpha(c)),
        "α weighs positives against negatives": wanted(
            lambda c: alpha(c) or (c["loss"] == "sigmoid_focal_loss" and c["parameters"].get("gamma") == 2)
        ),
    }
    for beta in sorted({curve["parameters"]["beta"] for curve in family if quality(curve)}, reverse=True):
        parts[f"Quality focal loss, β = {beta:g}"] = wanted(lambda c: quality(c) and c["parameters"]["beta"] == beta)  # noqa: B023
    groups = []
    for number, (heading, curves) in enumerate(parts.items()):
        named = {_legend(curve, heading): curve for curve in curves}
        charts = _loss_and_gradient(f"family{number}", heading, named, logits, "logit z")
        groups += [(heading, charts)] if charts else []
    sides = {f"y = {curve['label']:g}": curve for curve in rows(neuron["distribution"])}
    heading = "Distribution focal loss, two bins"
    first = next(iter(sides.values()), None)
    if first:
        minima = ", ".join(f"for {name} at {curve['minimum_at']:g}" for name, curve in sides.items())
        x_label = "probability of the right bin"
        charts = _loss_and_gradient(
            "family-sides", heading, sides, first["probabilities"], x_label, f"Least: {minima}."
        )
        groups.append((heading, charts))
    return groups


def _loss_and_gradient(
    key: str, heading: str, curves: Mapping[str, Json], x: list[float], x_label: str, description: str = ""
) -> Captioned:
    charts: Captioned = []
    for field, y_label, what in (("values", "loss", "Loss"), ("gradients", "∂loss/∂z", "Derivative on the logit")):
        series = {name: (x, curve[field]) for name, curve in curves.items()}
        ends = "; ".join(f"{name} from {y[0]:.3g} to {y[-1]:.3g}" for name, (_, y) in series.items())
        words = f"From {x_label} {x[0]:g} to {x[-1]:g}: {ends}. {description}".strip()
        drawn = line_chart(f"{key}-{field}", f"{heading}: {what.lower()}", series, x_label, y_label, description=words)
        charts += [(what, drawn)] if drawn else []
    return charts


def _legend(curve: Json, heading: str) -> str:
    """The curve's title without what the heading says already, with Greek letters."""
    title = str(curve["title"])
    for word, letter in (("alpha ", "α = "), ("beta ", "β = "), ("gamma ", "γ = ")):
        title = title.replace(word, letter)
    parts = [part for part in title.split(", ") if part not in heading and part.lower() not in heading.lower()]
    return ", ".join(parts) or title


def imbalance_charts(details: Json) -> Captioned:
    """The cumulative losses of background and objects, before the first step and at the end."""
    charts: Captioned = []
    for kind, name in (("background", "background"), ("objects", "objects")):
        for when, words in (("start", "before the first step"), ("end", "at the end")):
            curves = details[f"curves_{when}"]
            series = {
                "cross entropy" if loss["gamma"] == 0 else f"γ = {loss['gamma']:g}": (curves["fractions"], loss[kind])
                for loss in curves["losses"]
                if loss[kind]
            }
            x = np.array(curves["fractions"])
            shares = "; ".join(f"{label}: {100 * (1 - np.interp(0.9, x, y)):.0f} %" for label, (_, y) in series.items())
            drawn = line_chart(
                f"cumulative-{kind}-{when}",
                f"Cumulative loss of the {name}, {words}",
                series,
                f"share of the {name}, easiest first",
                "share of its loss",
                x_range=(0, 1),
                y_range=(0, 1.02),
                description=f"The hardest tenth has, {shares}.",
            )
            charts += [(f"{name.capitalize()}, {words}", drawn)] if drawn else []
    return charts


def learning_charts(ladder: Sequence[Rung]) -> Captioned:
    """AP on the validation split by minutes: each rung before all the others, on the same axes."""
    curves = {rung.name: _learning(rung) for rung in ladder}
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
            axes.plot(x, y, color=LINES[0], linewidth=2.2, marker="o", markersize=3)
            axes.set(xlabel="minutes", ylabel="AP on val", xlim=(0, right), ylim=(0, top))

        words = ", ".join(f"{b:.3f} after {a:.1f}" for a, b in zip(x, y, strict=True))
        description = f"{rung.title}: AP on the validation split by minutes of training: {words}."
        charts.append((rung.title, chart(f"learning-{rung.name}", description, draw, size_inches=_SMALL_INCHES)))
    return charts


def _learning(rung: Rung) -> tuple[list[float], list[float]]:
    measured = [(m["minutes"], metric(m["AP"])) for m in rows(rung.details.get("history"))]
    known = [(x, y) for x, y in measured if y is not None]
    return [x for x, _ in known], [y for _, y in known]


def sweep_chart(key: str, what: str, rungs: Mapping[float, Rung]) -> Markup | None:
    """AP by the value of one option: a dot a seed, a line through the means.

    Args:
        what: the option, for people: ``"γ"``.
        rungs: value of the option -> the rung that has it.
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
    """Error of the sides against the predicted deviation, by tenths, of every rung that has distributions."""
    measured = {}
    for rung in rungs:
        if deciles := rows(rung.details.get("deciles")):
            columns = [[decile[name] for decile in deciles] for name in ("deviation_px", "error_px")]
            measured[rung.title] = (np.array(columns[0], np.float64), np.array(columns[1], np.float64))
    return calibration_chart("deciles", measured) if measured else None
