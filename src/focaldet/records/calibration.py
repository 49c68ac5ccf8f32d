"""``calibration.json``: how reliable the scores, thresholds and sides of a run are, measured on labelled photos.

A run holds the whole file; an exported model carries it without its ``report``. Both are checked before use.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from focaldet import __version__
from focaldet.checks import InputError, check_range
from focaldet.files import read_json, write_text
from focaldet.schema import check_schema

FILE = "calibration.json"
"""Name of the file in a run folder."""

FORMAT = 1
"""Format of the file; increased if older versions of focaldet cannot read new files."""

PERCENTS = tuple(range(50, 100))
"""Promised precisions, recalls and coverages of a table's entries, in percent."""

SIZES = ("small", "medium", "large")
"""COCO's names of box sizes."""

SIZE_AREAS = (32.0**2, 96.0**2)
"""Areas in pixels of the photo at which the next size begins."""

BORDERS = ("inside", "at the border")

MAX_SAMPLED = 100
"""Photos in ``Calibration.sample``."""

Scale = Literal["deviation", "size"]
"""Unit of a band: the side's own standard deviation, or the length of the box."""


@dataclass(frozen=True)
class ScoreMap:
    """A strictly increasing broken line from score to the chance that a detection is right.

    Args:
        method: how it was fitted.
        scores, chances: its corners; the first score is 0, the last 1.
        detections: number of detections it was fitted on.
        right: number of them that matched an object.
    """

    method: Literal["isotonic", "platt"]
    scores: tuple[float, ...]
    chances: tuple[float, ...]
    detections: int
    right: int

    def __call__(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Map scores to chances.

        >>> ScoreMap("platt", (0.0, 0.5, 1.0), (0.0, 0.8, 1.0), 100, 60)([0.25, 0.5])
        array([0.4, 0.8])
        """
        return np.interp(np.asarray(scores, np.float64), self.scores, self.chances)

    def inverse(self, chance: float) -> float:
        """The score with this chance; the nearest end if no score has it."""
        return float(np.interp(chance, self.chances, self.scores))


@dataclass(frozen=True)
class Promise:
    """Score thresholds for promised values, one per entry of ``PERCENTS``.

    Args:
        thresholds: the network's own scores; ``None`` if the photos cannot promise the value.
        more_objects: for each ``None``, the approximate number of further labelled objects needed if the detector does
            equally well on them; ``None`` if no number helps, because the detector does not reach the value.
    """

    thresholds: tuple[float | None, ...]
    more_objects: tuple[int | None, ...]


@dataclass(frozen=True)
class ClassThresholds:
    """Thresholds of one class.

    Args:
        objects: number of labelled objects.
        pooled: whether the class has too few found objects, so that ``best_f1`` is the threshold of all classes
            together.
        best_f1: score with the best F1.
        precision, recall: thresholds for a promised precision or recall.
    """

    objects: int
    pooled: bool
    best_f1: float
    precision: Promise
    recall: Promise


@dataclass(frozen=True)
class BandGroup:
    """Boxes (or sides) that share the width of their bands.

    Args:
        name: description for people.
        count: number of boxes, or of sides.
        photos: number of photos they are in.
        factors: one per entry of ``PERCENTS``: a band reaches this many units to either side; ``None`` if there are too
            few boxes to promise the coverage.
    """

    name: str
    count: int
    photos: int
    factors: tuple[float | None, ...]


@dataclass(frozen=True)
class BandTable:
    """Groups, and the group of each cell.

    Args:
        groups: at least one.
        cells: index of a group for each (class, size, border): ``(label * 3 + size) * 2 + border``.
    """

    groups: tuple[BandGroup, ...]
    cells: tuple[int, ...]


@dataclass(frozen=True)
class Bands:
    """Conformal bands around the sides of detected boxes.

    Args:
        scale: unit of the factors.
        whole_box: bands that contain all four true sides at once; a box is at the border if one of its sides is.
        each_side: bands that contain one true side; each side is at the border, or not, by itself.
    """

    scale: Scale
    whole_box: BandTable
    each_side: BandTable


@dataclass(frozen=True)
class PhotoSample:
    """Boxes of one photo, which ``--check-shift`` compares with boxes of other photos (``runtime.shift``).

    Args:
        labels, scores: ``(N,)`` class, and the network's own score.
        widths: ``(N,)`` mean logarithm of the sides' standard deviations, relative to the size of the box; empty for
            methods without distributions.
    """

    labels: tuple[int, ...]
    scores: tuple[float, ...]
    widths: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """Everything in a ``calibration.json``.

    Args:
        class_names: in the order of the labels.
        data: description of the photos, for people.
        split: split that was used.
        photos, objects: numbers of photos and objects.
        least_score: lower bound of the scores that were used.
        maps: maps from score to chance.
        class_maps: index of each class's map, or ``None`` if there were too few detections.
        thresholds: one per class.
        bands: ``None`` if there are too few matched boxes.
        sample: boxes of at most ``MAX_SAMPLED`` of the photos.
        report: measurements for people, a ``calibration_report.Report``; ``None`` in an exported model. Prediction does
            not need it, so only the page checks it.
    """

    class_names: tuple[str, ...]
    data: str
    split: str
    photos: int
    objects: int
    least_score: float
    maps: tuple[ScoreMap, ...]
    class_maps: tuple[int | None, ...]
    thresholds: tuple[ClassThresholds, ...]
    bands: Bands | None
    sample: tuple[PhotoSample, ...] = ()
    report: dict[str, Any] | None = None

    def chances(self, label: int, scores: ArrayLike) -> NDArray[np.float64]:
        """Map scores of a class to chances; without a map they stay unchanged."""
        index = self.class_maps[label]
        return np.asarray(scores, np.float64) if index is None else self.maps[index](scores)

    def network_score(self, label: int, chance: float) -> float:
        """The network's score that has this chance in a class."""
        index = self.class_maps[label]
        return chance if index is None else self.maps[index].inverse(chance)

    def for_export(self) -> dict[str, Any]:
        """The part that prediction needs, as plain JSON values. It names no folder."""
        content: dict[str, Any] = json.loads(json.dumps(replace(self, report=None, data="").to_json()))
        return content

    def to_json(self) -> dict[str, Any]:
        """Content of the file."""
        return {"format": FORMAT, "focaldet": __version__, **asdict(self)}


def read_calibration(run: Path) -> Calibration | None:
    """Read the calibration of a run; ``None`` if it has none.

    Raises:
        InputError: the file is broken, or was written by a newer focaldet.
    """
    file = run / FILE
    if not file.is_file():
        return None
    try:
        return parse_calibration(read_json(file))
    except InputError as error:
        text = str(error).removeprefix(f"{file}: ")
        raise InputError(
            f"{file}: {text}; remove it, or write it again: focaldet calibrate {run} --data DIR"
        ) from error


def write_calibration(run: Path, calibration: Calibration) -> None:
    """Write the file into a run folder, with a line for each photo of the sample."""
    content = json.loads(json.dumps(calibration.to_json()))
    sample = ",\n  ".join(json.dumps(photo, separators=(",", ":")) for photo in content.pop("sample"))
    write_text(run / FILE, json.dumps(content, indent=1)[:-2] + f',\n "sample": [\n  {sample}\n ]\n}}\n')


def remove_calibration(run: Path) -> None:
    """Remove the file when the weights that it describes are replaced."""
    (run / FILE).unlink(missing_ok=True)


def parse_calibration(value: Any) -> Calibration:
    """Build a calibration from a file or a model's metadata, checking every value: files may come from anywhere.

    Raises:
        InputError: a value is missing, has the wrong type or is out of range, or the format is newer.
    """
    if not isinstance(value, dict) or "format" not in value:
        raise InputError("not a calibration ('format' is missing)")
    if value["format"] != FORMAT:
        raise InputError(
            f"format {value['format']!r}, written by focaldet {value.get('focaldet', '?')}; this focaldet reads format "
            f"{FORMAT}"
        )
    value = {"sample": [], "report": None, **value}
    check_schema("", value, Calibration)
    classes = len(value["class_names"])
    if not classes:
        raise InputError("class_names: expected at least one")
    for name in ("class_maps", "thresholds"):
        if len(value[name]) != classes:
            raise InputError(f"{name}: expected one per class ({classes}), got {len(value[name])}")
    check_range("least_score", value["least_score"], 0, 1)
    maps = tuple(_map(f"maps[{i}]", each) for i, each in enumerate(value["maps"]))
    for each in value["class_maps"]:
        if each is not None:
            check_range("class_maps", each, 0, len(maps) - 1)
    bands = value["bands"]
    return Calibration(
        class_names=tuple(value["class_names"]),
        data=value["data"],
        split=value["split"],
        photos=value["photos"],
        objects=value["objects"],
        least_score=value["least_score"],
        maps=maps,
        class_maps=tuple(value["class_maps"]),
        thresholds=tuple(_thresholds(f"thresholds[{i}]", each) for i, each in enumerate(value["thresholds"])),
        bands=None
        if bands is None
        else Bands(
            bands["scale"],
            _table("bands.whole_box", bands["whole_box"], classes),
            _table("bands.each_side", bands["each_side"], classes),
        ),
        sample=tuple(_sample(f"sample[{i}]", each, classes) for i, each in enumerate(value["sample"])),
        report=value["report"],
    )


def _map(name: str, value: dict[str, Any]) -> ScoreMap:
    scores, chances = tuple(map(float, value["scores"])), tuple(map(float, value["chances"]))
    ends = scores[:1] == (0.0,) and scores[-1:] == (1.0,)
    increasing = all(bool((np.diff(line) > 0).all()) for line in (scores, chances))
    if not (ends and increasing and len(scores) == len(chances) >= 2 and chances[0] >= 0 and chances[-1] <= 1):
        raise InputError(f"{name}: expected scores from 0 to 1 and as many chances in [0, 1], both strictly increasing")
    return ScoreMap(value["method"], scores, chances, value["detections"], value["right"])


def _thresholds(name: str, value: dict[str, Any]) -> ClassThresholds:
    check_range(f"{name}.best_f1", value["best_f1"], 0, 1)
    promises = []
    for kind in ("precision", "recall"):
        thresholds, more = value[kind]["thresholds"], value[kind]["more_objects"]
        if not len(thresholds) == len(more) == len(PERCENTS):
            raise InputError(f"{name}.{kind}: expected {len(PERCENTS)} entries, for 50 to 99 percent")
        for threshold in thresholds:
            check_range(f"{name}.{kind}", 0 if threshold is None else threshold, 0, 1)
        promises.append(Promise(tuple(thresholds), tuple(more)))
    return ClassThresholds(value["objects"], value["pooled"], value["best_f1"], *promises)


def _sample(name: str, value: dict[str, Any], classes: int) -> PhotoSample:
    labels, scores, widths = (tuple(value[key]) for key in ("labels", "scores", "widths"))
    if not len(labels) == len(scores) or len(widths) not in (0, len(labels)):
        raise InputError(f"{name}: expected as many labels as scores, and as many widths or none")
    for label in labels:
        check_range(f"{name}.labels", label, 0, classes - 1)
    return PhotoSample(labels, scores, widths)


def _table(name: str, value: dict[str, Any], classes: int) -> BandTable:
    groups = tuple(
        BandGroup(each["name"], each["count"], each["photos"], tuple(each["factors"])) for each in value["groups"]
    )
    if len(value["cells"]) != classes * len(SIZES) * len(BORDERS):
        raise InputError(f"{name}.cells: expected one per class, size and border")
    for cell in value["cells"]:
        check_range(f"{name}.cells", cell, 0, len(groups) - 1)
    for group in groups:
        if len(group.factors) != len(PERCENTS):
            raise InputError(f"{name}.groups: expected {len(PERCENTS)} factors, for 50 to 99 percent")
        for factor in group.factors:
            check_range(f"{name}.factors", 0 if factor is None else factor, 0)
    return BandTable(groups, tuple(value["cells"]))
