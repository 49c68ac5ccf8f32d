"""Charts as inline SVG: drawn by matplotlib and coloured by the CSS of the page, for light and dark mode.

matplotlib draws in placeholder colours, which CSS variables then replace. Text stays text, in the reader's font.
"""

import io
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from focaldet.evaluation.matching import Floats
from focaldet.records.run_files import Run, mapping, metric, number

SERIES = 6  # --s0 .. --s5 in style.css; further lines are left out
INK, RULE = "#010203", "#010204"
LINES = [f"#0102{16 + i:02x}" for i in range(SERIES)]
_DASHES: list[Any] = ["-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 3)), (0, (8, 2))]
SIZE_INCHES = (4.4, 3.2)  # 317 units wide: text keeps its size on a phone

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10.5,
    "text.parse_math": False,  # names may hold a dollar sign
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.transparent": True,
}

Points = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Mark:
    """A position on the horizontal axis with numbers to show on hover; words are lines separated by "; "."""

    x: float
    words: str


def chart(
    key: str,
    description: str,
    draw: Callable[[Axes], None],
    *,
    marks: Sequence[Mark] = (),
    size_inches: tuple[float, float] = SIZE_INCHES,
    legend_columns: int = 0,
) -> Markup:
    """A figure with a single panel.

    Args:
        key: unique on the page; prefix of the ids inside the SVG.
        description: text alternative with the subject and the numbers of the chart.
        draw: plots into the axes, in the colours of ``LINES``, ``INK`` and ``RULE``.
        marks: positions to point at, from left to right.
        legend_columns: number of columns of the legend above the panel; 0 for no legend.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size_inches, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        if legend_columns:
            figure.legend(loc="outside upper left", ncols=legend_columns, handlelength=2.4, columnspacing=1.2)
        svg = _inline_svg(figure, key, description)
    return _with_marks(svg, axes, marks) if marks else svg


def line_chart(
    key: str,
    title: str,
    series: Mapping[str, Points],
    x_label: str,
    y_label: str,
    *,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    description: str = "",
    marks: Sequence[Mark] = (),
) -> Markup | None:
    """A small chart of up to six lines, or None if there is nothing to draw.

    Args:
        title: subject of the chart. The text alternative is the title and ``description`` (default: the last values).
        series: name -> (x values, y values).
        marks: see ``chart``.
    """
    series = {name: points for name, points in list(series.items())[:SERIES] if points[0]}
    if not series:
        return None
    counted = all(value.is_integer() for x, _ in series.values() for value in map(float, x))  # epochs, steps

    def draw(axes: Axes) -> None:
        for i, (name, (x, y)) in enumerate(series.items()):
            marker = "o" if len(x) == 1 else ""
            axes.plot(x, y, color=LINES[i], linestyle=_DASHES[i], marker=marker, label=_plain(name))
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.ticklabel_format(axis="y", scilimits=(-2, 4))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=counted))
        if x_range:
            axes.set_xlim(*x_range)
        if y_range:
            axes.set_ylim(*y_range)

    columns = 0 if len(series) == 1 else _legend_columns(series)
    last = "Last values: " + ", ".join(f"{_plain(name)} {y[-1]:.3g}" for name, (_, y) in series.items()) + "."
    return chart(key, f"{title}. {description or last}", draw, marks=marks, legend_columns=columns)


def calibration_chart(key: str, measured: Mapping[str, tuple[Floats, Floats]]) -> Markup:
    """Error of the sides against their predicted standard deviation, with the diagonal of a calibrated detector.

    Args:
        measured: name -> root mean square of standard deviation and error in pixels, bin by bin.
    """
    top = 1.08 * max(1e-6, *(float(values.max()) for pair in measured.values() for values in pair))

    def draw(axes: Axes) -> None:
        axes.plot([0, top], [0, top], color=INK, linestyle=(0, (2, 2)), linewidth=1, label="calibrated")
        for i, (name, (predicted, actual)) in enumerate(measured.items()):
            axes.plot(predicted, actual, color=LINES[i], marker="os^D"[i % 4], markersize=5, label=_plain(name))
        axes.set(xlim=(0, top), ylim=(0, top), xlabel="predicted std. deviation (px)", ylabel="actual error (px)")

    words = "; ".join(
        f"{_plain(name)}: " + ", ".join(f"{p:.1f} px, {a:.1f} px" for p, a in zip(*pair, strict=True))
        for name, pair in measured.items()
    )
    description = f"Root mean square of the predicted standard deviation and of the error of the sides. {words}."
    return chart(key, description, draw, legend_columns=_legend_columns([*measured, "calibrated"]))


def _legend_columns(names: Collection[str]) -> int:
    """As many columns as fit side by side, without a column of a single entry."""
    longest = max(len(_plain(name)) for name in names)
    fitting = 3 if longest <= 14 else 2 if longest <= 24 else 1
    return 2 if fitting == 3 and len(names) in (2, 4) else fitting


def curves(run: Run) -> list[tuple[str, Markup]]:
    """(caption, chart) of a run's losses, validation AP and learning rate; charts without data are left out."""
    epochs = [(number(line.get("epoch")), line) for line in run.metrics]
    lines = [(x, line) for x, line in epochs if x is not None]
    terms = list(dict.fromkeys(name for _, line in lines for name in mapping(line.get("train"))))
    losses = {name: _points((x, number(mapping(line.get("train")).get(name))) for x, line in lines) for name in terms}
    ap = {n: _points((x, metric(mapping(line.get("val")).get(n))) for x, line in lines) for n in ("AP", "AP50", "AP75")}
    rate = {"learning rate": _points((x, number(line.get("lr"))) for x, line in lines)}
    charts = [
        ("Training loss and its terms", line_chart("loss", "Training loss by epoch", losses, "epoch", "loss")),
        ("AP on the validation split", line_chart("ap", "AP by epoch", ap, "epoch", "AP", y_range=(0, 1))),
        ("Learning rate", line_chart("rate", "Learning rate by epoch", rate, "epoch", "learning rate")),
    ]
    return [(caption, chart) for caption, chart in charts if chart]


def compared_curves(runs: Sequence[tuple[str, Run]]) -> list[tuple[str, Markup]]:
    """(caption, chart) of the AP and loss of several runs against training time in minutes."""

    def by_minutes(run: Run, group: str, name: str) -> Points:
        read = metric if group == "val" else number
        return _points((number(line.get("minutes")), read(mapping(line.get(group)).get(name))) for line in run.metrics)

    ap = {label: by_minutes(run, "val", "AP") for label, run in runs}
    loss = {label: by_minutes(run, "train", "loss") for label, run in runs}
    charts = [
        ("AP on the validation split", line_chart("ap", "AP by minutes", ap, "minutes", "AP", y_range=(0, 1))),
        ("Training loss; not comparable between methods", line_chart("loss", "Training loss", loss, "minutes", "loss")),
    ]
    return [(caption, chart) for caption, chart in charts if chart]


def _points(pairs: Iterable[tuple[float | None, float | None]]) -> Points:
    kept = [(x, y) for x, y in pairs if x is not None and y is not None]
    return [x for x, _ in kept], [y for _, y in kept]


def _plain(name: str) -> str:
    """A legend entry: one short line; matplotlib hides labels that begin with an underscore."""
    name = "".join(c for c in name if c.isprintable()).lstrip("_") or "?"
    return name if len(name) <= 28 else name[:27] + "…"


def _inline_svg(figure: Figure, key: str, description: str) -> Markup:
    out = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": key}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has the glyph: text stays text
        figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # Ids, in <defs> and in references, must be unique on a page with several charts.
    svg = re.sub(r'\bid="', f'id="{key}-', svg)
    svg = re.sub(r'href="#', f'href="#{key}-', svg).replace("url(#", f"url(#{key}-")
    view_box = re.search(r'viewBox="[^"]*"', svg)
    assert view_box, "matplotlib writes a viewBox"
    head = f'<svg class="chart" role="img" aria-label="{escape(description)}" {view_box.group()}>'
    svg = head + svg[svg.index(">") + 1 :]
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", svg)
    variables = {INK: "--ink", RULE: "--rule"} | {color: f"--s{i}" for i, color in enumerate(LINES)}
    for color, variable in variables.items():
        svg = svg.replace(color, f"var({variable})")
    return Markup(svg)


def _with_marks(svg: Markup, axes: Axes, marks: Sequence[Mark]) -> Markup:
    """A chart with a column to point at around each mark, as high as the panel."""
    width, height = (72 * inches for inches in axes.get_figure().get_size_inches())  # type: ignore[union-attr]
    panel, (low, high) = axes.get_position(), axes.get_xlim()  # height of the figure as drawn
    places = [width * (panel.x0 + panel.width * (mark.x - low) / (high - low)) for mark in marks]
    middles = [(a + b) / 2 for a, b in pairwise(places)]
    starts, ends = [width * panel.x0, *middles], [*middles, width * panel.x1]
    columns = [
        f'<g class="box column" role="img" tabindex="{-1 if index else 0}" aria-label="{escape(mark.words)}">'
        f'<title>{escape(mark.words)}</title><rect class="line" x="{start:.1f}" y="{height * (1 - panel.y1):.1f}" '
        f'width="{max(end - start, 0):.1f}" height="{height * panel.height:.1f}"/></g>'
        for index, (mark, start, end) in enumerate(zip(marks, starts, ends, strict=True))
    ]
    text = str(svg).replace('role="img"', 'role="group"', 1)
    return Markup(text[: text.rindex("</svg>")] + f"<g>{''.join(columns)}</g></svg>")
