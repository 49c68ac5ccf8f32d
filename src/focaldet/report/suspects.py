"""The page of labels that a model contradicts, each with a cut-out, the most certain first."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from focaldet.data.records import ImageRecord
from focaldet.evaluation.suspects import Suspect
from focaldet.files import write_text
from focaldet.report import gallery
from focaldet.report.page import render

SHOWN = 60
"""Number of cut-outs on the page; the CSV table has all suspects."""

_SURROUNDINGS = 2.2  # side of a cut-out, relative to the longer side of the boxes
_MIN_CUTOUT_PX = 64

KINDS = {
    "missing": "An object without a label.",
    "wrong class": "A label of another class.",
    "loose box": "A box that leaves the band of the detector's error.",
    "double": "A second label of one object.",
}
"""Kind -> its meaning."""

Judged = tuple[ImageRecord, Suspect]
"""A photo with its labels, and one of its suspects."""


def write_suspects(
    out: Path, found: Sequence[Judged], class_names: Sequence[str], *, title: str, sentence: str, notes: Sequence[str]
) -> Path:
    """Write the page, which needs no network and no other file. Returns its path.

    Args:
        out: the page.
        found: all suspects, most certain first.
        title: heading of the page.
        sentence: says how the labels were judged.
        notes: sentences about labels that could not be judged.

    Raises:
        InputError: the page cannot be written.
    """
    counts: Counter[str] = Counter(suspect.kind for _, suspect in found)
    cutouts = [_cutout(number, each, class_names) for number, each in enumerate(found[:SHOWN], start=1)]
    context: dict[str, Any] = {
        "title": title,
        "sentence": sentence,
        "faults": notes,
        "kinds": [(kind, counts[kind], words) for kind, words in KINDS.items()],
        "total": len(found),
        "cutouts": cutouts,
        **gallery.gallery_context([("Suspects", cutouts)]),
    }
    write_text(out, render("suspects.html", context))
    return out


def _cutout(number: int, each: Judged, names: Sequence[str]) -> gallery.Photo:
    record, suspect = each
    boxes, labels = record.boxes_xyxy[~record.ignored], record.labels[~record.ignored]
    corners = np.array([box for box in (suspect.box_xyxy, suspect.other_xyxy) if box is not None])
    window = gallery.window_around(record, corners, _SURROUNDINGS, _MIN_CUTOUT_PX)
    (data,) = gallery.embed_cutouts(record.path, record, [window])
    drawn = []
    for g, (box, label) in enumerate(zip(boxes, labels.tolist(), strict=True)):
        state, words = ("missed", f"; {suspect.kind}") if g == suspect.label else ("truth", "")
        drawn.append(gallery.make_box(box, label, names, state, f"{names[label]}, labelled{words}"))
    if suspect.label is None or suspect.kind != "double":
        theirs = suspect.box_xyxy if suspect.other_xyxy is None else suspect.other_xyxy
        state = "false" if suspect.label is None else "found"
        words = f"{suspect.detected}, detected"
        label = list(names).index(str(suspect.detected))
        drawn.append(gallery.make_box(np.array(theirs), label, names, state, words))
    x, y, wide, high = window
    seen = [b for b in drawn if b.x < x + wide and b.y < y + high and b.x + b.width > x and b.y + b.height > y]
    panel = gallery.Panel(f"{number}. {suspect.kind}, {suspect.certainty:.2f}", suspect.reason, seen)
    return gallery.Photo(f"suspect{number}", record.path.name, wide, high, data, [panel], x, y)
