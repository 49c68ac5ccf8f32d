"""Labels that a detector contradicts: a missing, a wrong, a loose and a double one.

The detector must not have seen the photo in training. Axes: N detections, G labelled objects, R ignore regions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from focaldet.evaluation.matching import MATCH_IOU, UNMATCHED, Floats, Ints, match_greedily, pairwise_iou
from focaldet.runtime.model import DetectionArrays

Kind = Literal["missing", "wrong class", "loose box", "double"]

TOUCHES = 0.1
"""A label with at least this IoU that no other detection matches is considered a poor label of the detected object."""

COVERAGE = 0.99
"""A box is loose if a side lies outside the band that contains the whole true box for this share of objects."""

_SIDES = ("left", "top", "right", "bottom")


@dataclass(frozen=True)
class Suspect:
    """A label that is probably wrong.

    Args:
        kind: ``missing``: an object without a label; ``wrong class``; ``loose box``; ``double``: a second label of one
            object.
        certainty: how sure the detector is, from 0 to 1.
        reason: a sentence.
        box_xyxy: box of the label, or of the object without one.
        other_xyxy: the detector's box, or the other label of a double one.
        label: index of the labelled object in its photo; ``None`` for a missing one.
        labelled, detected: classes; ``None`` without a label, or without a detection of its own.
    """

    kind: Kind
    certainty: float
    reason: str
    box_xyxy: tuple[float, ...]
    other_xyxy: tuple[float, ...] | None
    label: int | None
    labelled: str | None
    detected: str | None


def find_suspects(
    found: DetectionArrays,
    gt_xyxy: Floats,
    gt_labels: Ints,
    ignored_xyxy: Floats,
    class_names: Sequence[str],
    least: NDArray[np.float64],
) -> list[Suspect]:
    """The suspects of one photo, unordered.

    Args:
        found: detections, best first, including unlikely ones; with bands of ``COVERAGE`` to find loose boxes.
        gt_xyxy: ``(G, 4)``; gt_labels: ``(G,)``.
        ignored_xyxy: ``(R, 4)`` regions in which nothing is missing.
        class_names: name of each label.
        least: ``(C,)`` lowest score of a detection that may contradict a label.
    """
    scores, boxes = found.scores.astype(np.float64), found.boxes_xyxy.astype(np.float64)
    sure = scores >= least[found.labels]
    iou = pairwise_iou(boxes, gt_xyxy)
    same = found.labels[:, None] == gt_labels[None, :]
    matched, _ = match_greedily(np.where(sure[:, None] & same, iou, 0.0), MATCH_IOU)
    photo = _Photo(found, scores, boxes, gt_xyxy, gt_labels, tuple(class_names), iou)
    wrong = _wrong_classes(photo, sure, matched)
    loose = _loose_boxes(photo, sure, matched, {suspect.label for suspect in wrong})
    double = _doubles(photo, sure)
    inside = pairwise_iou(boxes, ignored_xyxy, over_a=True).max(axis=1, initial=0.0) >= MATCH_IOU
    return [*wrong, *loose, *double, *_missing(photo, sure & ~inside, matched)]


@dataclass(frozen=True)
class _Photo:
    found: DetectionArrays
    scores: Floats
    boxes: Floats
    gt_xyxy: Floats
    gt_labels: Ints
    names: tuple[str, ...]
    iou: Floats

    def name_of(self, i: int) -> str:
        return self.names[int(self.found.labels[i])]

    def label_of(self, g: int) -> str:
        return self.names[int(self.gt_labels[g])]


def _wrong_classes(photo: _Photo, sure: NDArray[np.bool_], matched: Ints) -> list[Suspect]:
    """Labels covered by a detection of another class that scores higher than every detection of their own class."""
    suspects = []
    for g in sorted(set(range(len(photo.gt_labels))) - set(matched.tolist())):
        on_it = photo.iou[:, g] >= MATCH_IOU
        of_class = photo.found.labels == photo.gt_labels[g]
        # The detection must not belong to a neighbour with its own label.
        other = np.flatnonzero(on_it & ~of_class & sure & (matched == UNMATCHED))
        if not len(other):
            continue
        i = int(other[0])
        own = float(photo.scores[on_it & of_class].max(initial=0.0))
        if own >= photo.scores[i]:
            continue
        reason = (
            f"Labelled {photo.label_of(g)}; the detector is {photo.scores[i]:.0%} sure that it is {photo.name_of(i)}"
        )
        reason += f", and {own:.0%} that the label is right." if own >= 0.005 else "."
        suspects.append(_suspect(photo, "wrong class", photo.scores[i] * (1 - own), reason, g, i))
    return suspects


def _loose_boxes(photo: _Photo, sure: NDArray[np.bool_], matched: Ints, taken: set[int | None]) -> list[Suspect]:
    """Labels whose box leaves the band of their detection, including those that it hardly overlaps."""
    low, high = photo.found.side_low_px, photo.found.side_high_px
    if low is None or high is None:
        return []
    free = np.array([g not in taken and g not in matched for g in range(len(photo.gt_labels))], bool)
    same = photo.found.labels[:, None] == photo.gt_labels[None, :]
    alone = sure & (matched == UNMATCHED) & (photo.iou.max(axis=1, initial=0.0) < MATCH_IOU)
    touched, _ = match_greedily(np.where(alone[:, None] & same & free, photo.iou, 0.0), TOUCHES)
    suspects = []
    for i, g in enumerate(np.maximum(matched, touched).tolist()):
        if g == UNMATCHED:
            continue
        sides = photo.gt_xyxy[g]
        outside = [side for side, x, a, b in zip(_SIDES, sides, low[i], high[i], strict=True) if not a <= x <= b]
        if not outside:
            continue
        moved = {side: abs(x - y) for side, x, y in zip(_SIDES, sides, photo.boxes[i], strict=True)}
        far = max(outside, key=lambda side: moved[side])
        reason = (
            f"The label's {far} side is {moved[far]:.0f} px from the detector's, beyond its {COVERAGE:.0%} band; the "
            f"boxes have an IoU of {photo.iou[i, g]:.2f}."
        )
        suspects.append(_suspect(photo, "loose box", photo.scores[i] * (1 - photo.iou[i, g]), reason, g, i))
    return suspects


def _doubles(photo: _Photo, sure: NDArray[np.bool_]) -> list[Suspect]:
    """Pairs of overlapping labels covered by one detection, with no second detection there."""
    overlap = pairwise_iou(photo.gt_xyxy, photo.gt_xyxy)
    suspects = []
    for g, h in zip(*np.nonzero(np.triu(overlap, 1) >= MATCH_IOU), strict=True):
        on_both = np.flatnonzero((photo.iou[:, [g, h]] >= MATCH_IOU).all(axis=1) & sure)
        on_one = ((photo.iou[:, [g, h]] >= MATCH_IOU).any(axis=1) & sure).sum()
        if len(on_both) != 1 or on_one != 1:
            continue
        i = int(on_both[0])
        # The detection keeps the more similar label.
        keeps, second = sorted(
            (int(g), int(h)), key=lambda k: (photo.label_of(k) != photo.name_of(i), -photo.iou[i, k])
        )
        reason = (
            f"Two labels, {photo.label_of(keeps)} and {photo.label_of(second)}, overlap (IoU "
            f"{overlap[g, h]:.2f}); the detector sees one {photo.name_of(i)} there."
        )
        certainty = float(photo.scores[i] * overlap[g, h])
        suspects.append(
            Suspect(
                "double",
                certainty,
                reason,
                tuple(photo.gt_xyxy[second].tolist()),
                tuple(photo.gt_xyxy[keeps].tolist()),
                second,
                photo.label_of(second),
                photo.name_of(i),
            )
        )
    return suspects


def _missing(photo: _Photo, sure: NDArray[np.bool_], matched: Ints) -> list[Suspect]:
    """Detections without a label: neither on a label nor near one that nothing else matches."""
    covered = {g for g in matched.tolist() if g != UNMATCHED}
    lonely = np.array([g not in covered for g in range(len(photo.gt_labels))], bool)
    most = photo.iou.max(axis=1, initial=0.0)
    near_lonely = np.where(lonely, photo.iou, 0.0).max(axis=1, initial=0.0)
    suspects: list[Suspect] = []
    for i in np.flatnonzero(sure & (matched == UNMATCHED) & (most < MATCH_IOU) & (near_lonely < TOUCHES)).tolist():
        # Several detections of one object, possibly of two classes, are one missing label.
        if any(pairwise_iou(photo.boxes[i : i + 1], np.array([s.box_xyxy]))[0, 0] >= MATCH_IOU for s in suspects):
            continue
        reason = f"No label here; the detector is {photo.scores[i]:.0%} sure of a {photo.name_of(i)}"
        reason += f" (the nearest label has an IoU of {most[i]:.2f})." if most[i] >= 0.005 else "."
        suspects.append(
            Suspect(
                "missing",
                float(photo.scores[i] * (1 - most[i])),
                reason,
                tuple(photo.boxes[i].tolist()),
                None,
                None,
                None,
                photo.name_of(i),
            )
        )
    return suspects


def _suspect(photo: _Photo, kind: Kind, certainty: float, reason: str, g: int, i: int) -> Suspect:
    return Suspect(
        kind,
        float(certainty),
        reason,
        tuple(photo.gt_xyxy[g].tolist()),
        tuple(photo.boxes[i].tolist()),
        g,
        photo.label_of(g),
        photo.name_of(i),
    )
