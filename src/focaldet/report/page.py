"""Write one self-contained HTML page for a run, for several runs or for a study.

Charts are imported where they are drawn: the page of errors has none and needs no matplotlib (docs/adr/0008).
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from focaldet.checks import InputError
from focaldet.evaluation.matching import ImageResult, best_threshold, match_run
from focaldet.evaluation.side_calibration import side_calibration
from focaldet.files import write_text
from focaldet.records.run_files import Run, mapping, metric, read_run
from focaldet.records.study_files import is_study, percent, read_study
from focaldet.report import facts, gallery
from focaldet.runtime.results import COCO_DETECTIONS, named_limit

TEMPLATES = Path(__file__).parent / "templates"


def write_report(run: Path | list[Path], out: Path | None = None) -> Path:
    """Write the page of one run or of one study, or a page that compares several runs.

    The page needs no network and no other file. It is written under another name and then renamed, so an existing page
    is always complete.

    Args:
        run: the folder of a run or of a study, or a list of runs; a list of one gives the page of that folder.
        out: path of the page; by default ``report.html`` in the folder, or ``comparison.html`` next to the first run.

    Returns:
        The path of the page.

    Raises:
        InputError: a folder is neither a run nor a study, a study is combined with other folders, the list is empty, or
            the page cannot be written.
    """
    paths = [Path(p) for p in run] if isinstance(run, list) else [Path(run)]
    if out is not None and Path(out).suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out {out}: expected a file whose name ends in .html")
    if not paths:
        raise InputError("no run to report: name at least one folder that `focaldet train` wrote")
    studies = [path for path in paths if is_study(path)]
    if studies and len(paths) > 1:
        raise InputError(f"{studies[0]} is a study and cannot be combined with other folders; report it on its own")
    if studies:
        from focaldet.report.study_page import study_context

        html, default = render("study.html", study_context(read_study(paths[0]))), paths[0] / "report.html"
    elif len(paths) == 1:
        html, default = render("run.html", run_context(read_run(paths[0]))), paths[0] / "report.html"
    else:
        html = render("comparison.html", comparison_context([read_run(path) for path in paths]))
        default = paths[0].parent / "comparison.html"
    out = default if out is None else Path(out)
    write_text(out, html)
    return out


def render(template: str, context: dict[str, Any]) -> str:
    """Render a template; everything that is not markup already is escaped."""
    script = (TEMPLATES / "hover.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _templates()
        .get_template(template)
        .render(
            style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hash=f"sha256-{digest}",
            **context,
        )
    )


@cache
def _templates() -> Environment:
    """The templates; each is compiled once."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = lambda value: "–" if value is None else f"{value:.3f}"
    environment.filters["percent"] = lambda value: "–" if value is None else f"{100 * value:.0f} %"
    environment.filters["share"] = percent
    environment.filters["thousands"] = lambda value: f"{value:,}" if isinstance(value, int) else value
    return environment


def run_context(run: Run) -> dict[str, Any]:
    """Variables of the template run.html for one run."""
    from focaldet.report import certainty, charts

    results = _matched(run)
    threshold = best_threshold(results)
    counts = facts.total_counts(results, threshold) if results else None
    names = run.class_names
    groups: list[tuple[str, list[gallery.Photo]]] = []
    for heading, chosen in gallery.choose(results, threshold).items():
        photos: list[gallery.Photo] = []
        for result in chosen:
            panels = [
                gallery.truth_panel(result, names, gallery.missed_objects(result, threshold)),
                gallery.prediction_panel("Predicted", result, names, threshold),
            ]
            photos.append(gallery.photo(f"photo{len(photos)}-{len(groups)}", run, result, panels))
        groups.append((heading, photos))
    calibration = side_calibration(results, threshold)
    reliability = certainty.certainty_context(run, results)
    sides = {"measured": (calibration.predicted_px, calibration.actual_px)} if calibration else {}
    return {
        "title": run.name,
        "sentence": facts.result_sentence(run, counts, threshold),
        "faults": run.faults,
        "metrics": facts.metric_rows(run),
        "limit": named_limit(facts.detection_limit(run)),
        "evaluation": run.evaluation,
        "counts": counts,
        "classes": facts.class_rows(run, results, threshold),
        "curves": charts.curves(run),
        "threshold": threshold,
        "calibration": calibration,
        "calibration_chart": charts.calibration_chart("sides", sides) if sides else None,
        "certainty": reliability,
        "examples": list(reliability["examples"].items()) if reliability else [],
        "training": facts.training_rows(run),
        "step": facts.step_shares(run),
        "settings": facts.flat_settings(run.config) if run.config else {},
        "model": facts.flat_settings(run.model) if run.model else {},
        "commands": facts.commands(run),
        **gallery.gallery_context(groups),
    }


def comparison_context(runs: Sequence[Run]) -> dict[str, Any]:
    """Variables of the template comparison.html for several runs."""
    from focaldet.report import charts

    labels = _labels(runs)
    matched = [_matched(run) for run in runs]
    thresholds = [best_threshold(results) for results in matched]
    metrics = [mapping(run.evaluation.get("metrics")) for run in runs]
    compared = [(name, over, [metric(m.get(name)) for m in metrics]) for name, over in facts.METRICS.items()]
    if len({facts.detection_limit(run) for run in runs}) > 1:
        coco = [mapping(run.evaluation.get("coco_metrics")) or m for run, m in zip(runs, metrics, strict=True)]
        over = f"at most {COCO_DETECTIONS} detections per photo"
        compared.append(("COCO's AP", over, [metric(m.get("AP")) for m in coco]))
    table = []
    for name, over, values in compared:
        if any(value is not None for value in values):
            best = max(v for v in values if v is not None) if len(set(values)) > 1 else None
            table.append((name.replace("_", " "), over, values, best))
    classes: dict[str, list[float | None]] = {}
    for i, run in enumerate(runs):
        for row in facts.class_rows(run, [], 0.5):
            classes.setdefault(row["name"], [None] * len(runs))[i] = row["AP"]
    settings = [facts.flat_settings(run.config) if run.config else {} for run in runs]
    keys = dict.fromkeys(key for one in settings for key in one)
    differing = [(k, [s.get(k, "–") for s in settings]) for k in keys if len({s.get(k) for s in settings}) > 1]
    return {
        "title": f"{len(runs)} runs compared",
        "sentence": _comparison_sentence(runs, labels),
        "faults": [f"{label}: {fault}" for label, run in zip(labels, runs, strict=True) for fault in run.faults],
        "labels": labels,
        "methods": [facts.method_name(run) for run in runs],
        "metrics": table,
        "classes": classes,
        "curves": charts.compared_curves(list(zip(labels, runs, strict=True))),
        "max_lines": charts.SERIES,
        "differing": differing,
        "thresholds": thresholds,
        **gallery.gallery_context(_compared_photos(runs, labels, matched, thresholds)),
    }


def _compared_photos(
    runs: Sequence[Run], labels: Sequence[str], matched: Sequence[list[ImageResult]], thresholds: Sequence[float]
) -> list[tuple[str, list[gallery.Photo]]]:
    """The photos on which the runs' F1 differs most, among those in every run's evaluation."""
    by_photo = [{(str(r.image_id), r.file_name): r for r in results} for results in matched]
    shared = [[one[key] for one in by_photo] for key in by_photo[0] if all(key in one for one in by_photo)]

    def spread(same: list[ImageResult]) -> float:
        f1 = [r.f1(t) for r, t in zip(same, thresholds, strict=True)]
        return max(f1) - min(f1)

    chosen = sorted(shared, key=spread, reverse=True)[: gallery.NUM_PHOTOS]
    photos = []
    for i, same in enumerate(chosen):
        panels = [gallery.truth_panel(same[0], runs[0].class_names, None)]
        for run, label, result, threshold in zip(runs, labels, same, thresholds, strict=True):
            panels.append(gallery.prediction_panel(label, result, run.class_names, threshold))
        photos.append(gallery.photo(f"photo{i}", runs[0], same[0], panels))
    return [("Largest differences between the runs", photos)] if photos else []


def _comparison_sentence(runs: Sequence[Run], labels: Sequence[str]) -> str:
    """Which run has the highest AP, and whether the numbers can be compared at all."""
    ap = [metric(mapping(run.evaluation.get("metrics")).get("AP")) for run in runs]
    ranked = sorted(((a, label) for a, label in zip(ap, labels, strict=True) if a is not None), reverse=True)
    if len(ranked) < 2:
        return "Fewer than two of these runs have been evaluated, so their accuracy cannot be compared yet."
    sentence = f"{ranked[0][1]} has the highest AP, {ranked[0][0]:.3f}; next is {ranked[1][1]} with {ranked[1][0]:.3f}."
    evaluated = {
        tuple(str(run.evaluation.get(k)) for k in ("split", "images", "objects")) for run in runs if run.evaluation
    }
    if len(evaluated) > 1:
        return sentence + " They were evaluated on different photos, so these numbers are not comparable."
    if len({facts.detection_limit(run) for run in runs if run.evaluation}) > 1:
        return sentence + " Their AP counts different numbers of detections per photo: compare COCO's AP, at most 100."
    return (
        sentence
        + " Single runs do not show how much results vary by chance: train with several seeds before you trust a small "
        "difference."
    )


def _matched(run: Run) -> list[ImageResult]:
    """Match the boxes and objects of every image; files that do not fit together become a fault of the run."""
    try:
        return match_run(run)
    except ValueError as error:
        run.faults.append(f"No photos are shown because truth.json and predictions.json cannot be compared: {error}.")
        return []


def _labels(runs: Sequence[Run]) -> list[str]:
    """A distinct name for each run: its folder, with as many parents as necessary."""
    for depth in range(1, 6):
        labels = ["/".join(run.path.resolve().parts[-depth:]) for run in runs]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{label} ({i})" for i, label in enumerate(labels, 1)]
