"""Read a study folder defensively: any file may be missing, half-written or damaged.

``focaldet.records.study`` describes the fields of the files.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from focaldet.checks import InputError
from focaldet.records.run_files import Json, entries, mapping, number, read_file, rows

FORMAT = 1  # format of the files that this version reads

_PURPOSES = {
    "study.json": "what was compared",
    "study.jsonl": "shares, ranks and costs",
    "summary.json": "the table of the ladder",
    "truth.json": "photos",
    "neuron.json": "the curves of the losses",
}


@dataclass(frozen=True)
class Spread:
    """A number over the seeds or folds of a rung: the values, their mean, and standard deviation (None for one)."""

    values: list[float]
    mean: float
    std: float | None

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if self.std is None else f" ± {self.std:.3f}")


@dataclass(frozen=True)
class Rung:
    """One training configuration with its measurements.

    Args:
        name, title, group, changes, before, changed: as in study.json; ``before`` is the name of a rung, or None.
        lines: lines of study.jsonl, one per finished seed or fold.
        diverged: seeds whose training diverged.
        numbers: numbers from summary.json.
        details: details of the first seed that has them, else ``{}``.
    """

    name: str
    title: str
    group: str
    changes: Json
    before: str | None
    changed: str
    lines: list[Json]
    diverged: list[str]
    numbers: dict[str, Spread]
    details: Json

    def __getitem__(self, key: str) -> Spread | None:
        return self.numbers.get(key)

    def mean(self, *keys: str) -> float | None:
        """Mean over the seeds of a number in the lines; None if it was not measured."""
        values = []
        for line in self.lines:
            value: Any = line
            for key in keys:
                value = mapping(value).get(key)
            values.append(number(value))
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class StudyFiles:
    """A study folder in memory.

    Args:
        path: the folder.
        study: content of study.json.
        rungs: rungs with results, in order.
        waiting: titles of the rungs without results.
        comparisons: comparisons from summary.json; tied: likewise, over folds.
        truth, neuron: content of these files, ``{}`` if missing.
        faults: one sentence for each file that is missing or cannot be read.
    """

    path: Path
    study: Json
    rungs: list[Rung]
    waiting: list[str] = field(default_factory=list)
    comparisons: list[Json] = field(default_factory=list)
    tied: Json = field(default_factory=dict)
    truth: Json = field(default_factory=dict)
    neuron: Json = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the data folder."""
        return Path(str(self.study.get("data", ""))).name or self.path.resolve().name

    @property
    def class_names(self) -> list[str]:
        return [str(name) for name in entries(self.study.get("class_names"))]

    @property
    def num_folds(self) -> int:
        """Number of folds; 0 in a study over seeds."""
        return len(entries(self.study.get("folds")))

    @property
    def unit(self) -> str:
        """``"fold"`` or ``"seed"``: the trainings of a rung differ by it."""
        return "fold" if self.num_folds else "seed"

    @property
    def num_seeds(self) -> int:
        """Largest number of seeds, or folds, with an AP over all rungs."""
        return max((len(rung["AP"].values) for rung in self.rungs if rung["AP"]), default=0)

    def group(self, name: str) -> list[Rung]:
        """The rungs of the ladder, or of one of the extra questions."""
        return [rung for rung in self.rungs if rung.group == name]

    def rung(self, name: str | None) -> Rung | None:
        return next((rung for rung in self.rungs if rung.name == name), None)

    def comparison(self, rung: str, key: str = "AP") -> Json:
        """Comparison of a rung with the one before it in one number; ``{}`` if there is none."""
        of_rung = (c for c in self.comparisons if c.get("rung") == rung and c.get("number") == key)
        return next(of_rung, {})


def is_study(path: Path) -> bool:
    """Whether a folder is a study folder rather than a run folder."""
    return (path / "study.json").is_file()


def read_study(path: Path) -> StudyFiles:
    """Read a study folder.

    Raises:
        InputError: study.json is damaged, or has another format.
    """
    faults: list[str] = []
    read = {name: read_file(path / name, purpose, faults) for name, purpose in _PURPOSES.items()}
    study = mapping(read["study.json"])
    if not rows(study.get("rungs")):
        reason = f" ({faults[0]})" if faults else ""
        raise InputError(f"{path / 'study.json'}: has no rungs{reason}; run `focaldet study` again with this folder")
    if study.get("format") != FORMAT:
        raise InputError(
            f"{path / 'study.json'}: expected format {FORMAT}, got {study.get('format')!r}; read it with the "
            f"version of focaldet that wrote it ({study.get('focaldet', 'unknown')})"
        )
    summary = mapping(read["summary.json"])
    measured, waiting = [], []
    for row in rows(study["rungs"]):
        name, title = str(row.get("name")), str(row.get("title"))
        latest = {str(line.get("seed")): line for line in rows(read["study.jsonl"]) if line.get("rung") == name}
        if not latest:
            waiting.append(title)
            continue
        diverged = [seed for seed, line in latest.items() if line.get("diverged") is not None]
        seed = min(latest, key=lambda seed: seed in diverged)  # the first seed with a detector, else the first seed
        details = read_file(path / "details" / f"{name}-{seed}.json", f"photos and curves of {title}", faults)
        measured.append(
            Rung(
                name=name,
                title=title,
                group=str(row.get("group")),
                changes=mapping(row.get("changes")),
                before=row.get("compared_with"),
                changed=str(row.get("changed")),
                lines=list(latest.values()),
                diverged=diverged,
                numbers=_numbers(next((r for r in rows(summary.get("rows")) if r.get("rung") == name), {})),
                details=mapping(details),
            )
        )
    if waiting:
        faults.append(f"Not finished yet: {', '.join(waiting)}.")
    return StudyFiles(
        path=path,
        study=study,
        rungs=measured,
        waiting=waiting,
        comparisons=rows(summary.get("comparisons")),
        tied=mapping(summary.get("tied")),
        truth=mapping(read["truth.json"]),
        neuron=mapping(read["neuron.json"]),
        faults=faults,
    )


def _numbers(row: Json) -> dict[str, Spread]:
    numbers = {}
    for key, spread in mapping(row.get("numbers")).items():
        mean = number(mapping(spread).get("mean"))
        values = [v for v in map(number, entries(mapping(spread).get("values"))) if v is not None]
        if mean is not None and values:
            numbers[str(key)] = Spread(values, mean, number(mapping(spread).get("std")))
    return numbers


def percent(share: float | None) -> str:
    """Format a share in percent, with enough digits to distinguish it from 0 % and 100 %.

    >>> percent(0.4), percent(0.9991), percent(0.0004), percent(1.0), percent(1e-7), percent(None)
    ('40 %', '99.9 %', '0.04 %', '100 %', 'under 0.01 %', '–')
    """
    if share is None:
        return "–"
    if 0 < share < 5e-5:
        return "under 0.01 %"
    rest = min(share, 1 - share)
    digits = 0 if rest >= 0.05 or rest <= 0 else 1 if rest >= 0.0005 else 2
    return f"{100 * share:.{digits}f} %"
