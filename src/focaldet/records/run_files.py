"""Read a run folder defensively: any file may be missing, half-written or damaged."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from focaldet.checks import InputError, printable
from focaldet.files import MAX_JSON, parse_json, read_json, read_text, read_yaml

Json = dict[str, Any]

PURPOSES = {
    "evaluation.json": "the accuracy table",
    "truth.json": "the labelled boxes",
    "predictions.json": "the predicted boxes",
    "metrics.jsonl": "the learning curves",
    "config.yaml": "the settings",
    "model.json": "the model's description",
}
"""File of a run -> the part of the page that shows it."""


@dataclass(frozen=True)
class Run:
    """One run folder in memory.

    Args:
        path: the folder.
        faults: one sentence for each file that is missing or cannot be read.
        config, model, evaluation, truth: content of these files, ``{}`` if missing.
        metrics: one mapping per epoch.
        predictions: COCO results, or ``None`` if the file is missing (an empty list means no detections).
    """

    path: Path
    faults: list[str] = field(default_factory=list)
    config: Json = field(default_factory=dict)
    model: Json = field(default_factory=dict)
    evaluation: Json = field(default_factory=dict)
    truth: Json = field(default_factory=dict)
    metrics: list[Json] = field(default_factory=list)
    predictions: list[Json] | None = None

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def class_names(self) -> list[str]:
        """Class names in the order of the ground truth's categories, which labels refer to; without it, the model's."""
        names = [c.get("name") for c in rows(self.truth.get("categories"))] or self.model.get("class_names")
        return [str(name) for name in entries(names)]


def read_run(path: Path) -> Run:
    """Read a run folder.

    Raises:
        InputError: the folder does not exist, or holds no files of a run.
    """
    path = Path(path)
    if not any((path / name).is_file() for name in PURPOSES):
        what = "holds no files of a run" if path.is_dir() else "is not a folder"
        raise InputError(f"{path} {what}: give the folder that `focaldet train` wrote (it holds config.yaml)")
    faults: list[str] = []
    read = {name: read_file(path / name, purpose, faults) for name, purpose in PURPOSES.items()}
    predictions = read["predictions.json"]
    return Run(
        path=path,
        faults=faults,
        config=mapping(read["config.yaml"]),
        model=mapping(read["model.json"]),
        evaluation=mapping(read["evaluation.json"]),
        truth=mapping(read["truth.json"]),
        metrics=rows(read["metrics.jsonl"]),
        predictions=None if predictions is None else rows(predictions),
    )


def read_file(path: Path, purpose: str, faults: list[str]) -> Any:
    """Read one file. On failure, return None and add a sentence to ``faults``."""
    if not path.is_file():
        faults.append(f"{path.name} is missing, so {purpose} cannot be shown.")
        return None
    try:
        if path.suffix == ".yaml":
            content = read_yaml(path)
        elif path.suffix == ".jsonl":
            content = _json_lines(read_text(path, MAX_JSON), path.name, faults)
        else:
            content = read_json(path)
    except InputError as error:
        reason = printable(str(error).removeprefix(f"{path}: "))
        faults.append(f"{path.name} cannot be read ({reason}), so {purpose} cannot be shown.")
        return None
    expected = list if path.suffix == ".jsonl" or path.name == "predictions.json" else dict
    if not isinstance(content, expected):
        faults.append(f"{path.name} does not hold a {expected.__name__}, so {purpose} cannot be shown.")
        return None
    return content


def _json_lines(text: str, name: str, faults: list[str]) -> list[Any]:
    content, broken = [], 0
    for line in filter(str.strip, text.splitlines()):
        try:
            content.append(parse_json(line))
        except ValueError:
            broken += 1
    if broken:  # the file of a killed or active run may end in half a line
        faults.append(
            f"{name}: {broken} line{'s' * (broken > 1)} could not be read and {'are' if broken > 1 else 'is'} left out."
        )
    return content


def mapping(value: Any) -> Json:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def entries(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def rows(value: Any) -> list[Json]:
    """The mappings of a list; anything else counts as absent."""
    return [item for item in entries(value) if isinstance(item, dict)]


def number(value: Any) -> float | None:
    """A finite number, or None.

    >>> number(0.5), number("0.5"), number(float("nan")), number(True)
    (0.5, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def metric(value: Any) -> float | None:
    """A COCO metric, or None; COCO writes -1 if there are no objects.

    >>> metric(0.25), metric(-1)
    (0.25, None)
    """
    value = number(value)
    return None if value is None or value < 0 else value
