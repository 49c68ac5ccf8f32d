"""The model card of a run: the README.md of its repository on the hub, written from the files of the run."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from focaldet import __version__
from focaldet.records.calibration import Calibration, read_calibration
from focaldet.records.run_files import Run, entries, mapping, metric, number, read_file, read_run, rows
from focaldet.records.study_files import is_study
from focaldet.report.facts import METRICS, method_name, result_sentence

PRIVATE = ("data", "out", "weights", "backbone_weights", "resume", "workers", "device", "devices", "nodes", "profile")
"""Settings that a card leaves out: paths on the machine, and settings that do not change the weights."""


def model_card(folder: Path, repository: str, licence: str | None = None) -> str:
    """The card of a run as Markdown with the hub's metadata.

    Args:
        folder: the run.
        repository: OWNER/NAME on the hub.
        licence: licence of the weights, in the hub's abbreviation.

    Raises:
        InputError: the run's calibration is damaged.
    """
    run = read_run(folder)
    name = repository.split("/")[1]
    parts = [
        f"# {name}",
        result_sentence(run, None, 0.0),
        _use(repository),
        _section("Classes", ", ".join(map(str, run.model.get("class_names", [])))),
        _section("Data", _data(run)),
        _section("Accuracy", _accuracy(run)),
        _section("Thresholds and calibration", _calibration(read_calibration(folder))),
        _section("Training", _training(run)),
        _section("Licence", licence or "Not stated. Ask the owner before you use these weights."),
    ]
    head = yaml.safe_dump(_metadata(run, name, licence), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _metadata(run: Run, name: str, licence: str | None) -> dict[str, Any]:
    """Metadata for the hub's filters and its table of results."""
    metadata: dict[str, Any] = {"library_name": "focaldet", "pipeline_tag": "object-detection"}
    if licence:
        metadata["license"] = licence
    metadata["tags"] = ["object-detection", "focaldet", str(run.model.get("method", ""))]
    measured = {key: metric(value) for key, value in mapping(run.evaluation.get("metrics")).items()}
    metrics = [
        {"type": key, "name": key, "value": round(value, 4)}
        for key, value in measured.items()
        if key in ("AP", "AP50", "AP75") and value is not None
    ]
    if metrics:
        dataset = {"type": "image-folder", "name": _data_name(run), "split": run.evaluation.get("split")}
        result = {"task": {"type": "object-detection"}, "dataset": dataset, "metrics": metrics}
        metadata["model-index"] = [{"name": name, "results": [result]}]
    return metadata


def _use(repository: str) -> str:
    return (
        "```console\n"
        "pip install 'focaldet[train,hub]'\n"
        f"focaldet predict hf:{repository} PHOTO... --out FOLDER\n"
        f"focaldet train --data DIR --weights hf:{repository}\n"
        "```\n\n"
        "```python\n"
        "import focaldet\n\n"
        f'run = focaldet.Run("hf:{repository}")\n'
        'found = run.predict("photo.jpg")\n'
        "found.boxes_xyxy, found.scores, found.names, found.side_std_px\n"
        "```"
    )


def _data_name(run: Run) -> str:
    """The name of the data folder, without its location."""
    return Path(str(run.config.get("data") or "labelled photos")).name


def _data(run: Run) -> str:
    splits = mapping(read_file(run.path / "splits.json", "", []))
    photos = ", ".join(f"{split} {len(names):,}" for split, names in splits.items() if isinstance(names, list))
    lines = [f"Photos of {_data_name(run)}" + (f": {photos}." if photos else ".")]
    if run.evaluation:
        lines.append(f"{int(number(run.evaluation.get('objects')) or 0):,} objects in the measured photos.")
    if ignored := run.model.get("ignored_classes"):
        lines.append(f"Ignored classes: {', '.join(map(str, ignored))}.")
    return " ".join(lines)


def _accuracy(run: Run) -> str:
    metrics = mapping(run.evaluation.get("metrics"))
    table = [
        f"| {key.replace('_', ' ')} | {over} | {value:.3f} |"
        for key, over in METRICS.items()
        if (value := metric(metrics.get(key))) is not None
    ]
    if not table:
        return "Not measured."
    lines = [f"Measured on the {run.evaluation.get('split')} split ({run.evaluation.get('images')} photos).", ""]
    lines += ["| metric | over | value |", "|---|---|---|", *table, "", _spread(run), ""]
    lines += ["| class | objects | AP | AP50 |", "|---|---|---|---|"]
    for row in rows(run.evaluation.get("per_class")):
        values = [metric(row.get(key)) for key in ("AP", "AP50")]
        shown = " | ".join("–" if value is None else f"{value:.3f}" for value in values)
        lines.append(f"| {row.get('name')} | {row.get('objects')} | {shown} |")
    return "\n".join(lines)


def _spread(run: Run) -> str:
    """The spread of AP between trainings with different seeds or folds; known only for a run of a study."""
    study = run.path.resolve().parent.parent
    values: list[float] = []
    if run.path.resolve().parent.name == "runs" and is_study(study):
        rung = run.path.resolve().name.rpartition("-")[0]
        lines = rows(read_file(study / "study.jsonl", "", []))
        found = [metric(mapping(line.get("metrics")).get("AP")) for line in lines if line.get("rung") == rung]
        values = [value for value in found if value is not None]
    if len(values) < 2:
        return "One training. How far AP differs between seeds was not measured (`focaldet study` does)."
    folds = entries(mapping(read_file(study / "study.json", "", [])).get("folds"))
    over = f"{len(values)} of {len(folds)} folds" if folds else f"{len(values)} trainings with different seeds"
    return (
        f"AP over {over}: {statistics.mean(values):.3f} ± "
        f"{statistics.stdev(values):.3f} (mean ± standard deviation; {_listed(values)})."
    )


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _calibration(calibration: Calibration | None) -> str:
    if calibration is None:
        return "Not calibrated: scores are the network's own, and 0.3 is the threshold by default."
    lines = [f"Calibrated on {calibration.data}: {calibration.objects:,} objects."]
    error = mapping(mapping(calibration.report).get("scores")).get("error")
    if isinstance(error, list) and len(error) == 2 and None not in error:
        lines[0] += f" The network's scores are off by {error[0]:.3f} on average, calibrated scores by {error[1]:.3f}."
    lines += ["", "| class | objects | threshold with the best F1 |", "|---|---|---|"]
    for name, each in zip(calibration.class_names, calibration.thresholds, strict=True):
        lines.append(f"| {name} | {each.objects:,} | {each.best_f1:.2f} |")
    bands = (
        rows(mapping(mapping(calibration.report).get("sides")).get(calibration.bands.scale))
        if calibration.bands
        else []
    )
    for row in bands:
        if row.get("box_count") and row.get("promised") == 0.9:
            share = row["box_inside"] / row["box_count"]
            lines += ["", f"Bands that promise to contain 90% of the true boxes contain {share:.1%} of new ones."]
    return "\n".join(lines)


def _training(run: Run) -> str:
    if not run.config:
        return "Imported from another library."
    kept = {key: value for key, value in run.config.items() if key not in PRIVATE and value is not None}
    start = "another run" if run.config.get("weights") else "ImageNet" if _pretrained(run) else "random weights"
    return (
        f"{method_name(run)} on {run.model.get('backbone')}, started from {start}, with focaldet "
        f"{run.model.get('focaldet', __version__)}:\n\n```yaml\n{yaml.safe_dump(kept, sort_keys=False)}```"
    )


def _pretrained(run: Run) -> bool:
    return run.config.get("pretrained") is True or bool(run.config.get("backbone_weights"))
