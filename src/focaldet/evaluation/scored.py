"""Detections and objects of one class over all photos, for calibration and thresholds.

Axes: N detections, G objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from focaldet.evaluation.matching import IN_CROWD, Floats, ImageResult, Ints

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Scored:
    """Detections of one class, or of all classes together.

    Args:
        scores: ``(N,)``.
        right: ``(N,)`` whether the detection matches an object.
        iou: ``(N,)`` IoU with the matched object; 0 without one.
        photo: ``(N,)`` index of the photo.
        object_scores: ``(G,)`` score of the detection that matches the object; -1 for a missed object.
        object_photo: ``(G,)`` index of the photo.
    """

    scores: Floats
    right: Bools
    iou: Floats
    photo: Ints
    object_scores: Floats
    object_photo: Ints

    def at_photos(self, keep: Bools) -> "Scored":
        """The detections and objects of a subset of the photos.

        Args:
            keep: ``(photos,)``.
        """
        mine, objects = keep[self.photo], keep[self.object_photo]
        return Scored(
            self.scores[mine],
            self.right[mine],
            self.iou[mine],
            self.photo[mine],
            self.object_scores[objects],
            self.object_photo[objects],
        )

    def at_least(self, score: float) -> "Scored":
        """The detections with at least this score; all objects stay."""
        kept = self.scores >= score
        found = np.where(self.object_scores >= score, self.object_scores, -1.0)
        return Scored(self.scores[kept], self.right[kept], self.iou[kept], self.photo[kept], found, self.object_photo)


def scored_by_class(results: Sequence[ImageResult], num_classes: int) -> list[Scored]:
    """The detections and objects of each class; detections in crowd regions are left out."""
    labels, scores, matched, iou, photo = [], [], [], [], []
    gt_labels, gt_scores, gt_photo = [], [], []
    for index, result in enumerate(results):
        counted = result.matched_gt != IN_CROWD
        labels.append(result.labels[counted])
        scores.append(result.scores[counted])
        matched.append(result.matched_gt[counted] >= 0)
        iou.append(np.where(matched[-1], result.iou[counted], 0.0))
        photo.append(np.full(len(scores[-1]), index, np.int64))
        of_object = np.full(len(result.gt_labels), -1.0)
        found = result.matched_gt >= 0
        of_object[result.matched_gt[found]] = result.scores[found]
        gt_labels.append(result.gt_labels)
        gt_scores.append(of_object)
        gt_photo.append(np.full(len(of_object), index, np.int64))
    if not results:
        return [_empty()] * num_classes
    label, gt_label = np.concatenate(labels), np.concatenate(gt_labels)
    detections = [np.concatenate(part) for part in (scores, matched, iou, photo)]
    objects = [np.concatenate(part) for part in (gt_scores, gt_photo)]
    return [
        Scored(*(part[label == index] for part in detections), *(part[gt_label == index] for part in objects))
        for index in range(num_classes)
    ]


def pooled(classes: Sequence[Scored]) -> Scored:
    """All classes together."""
    if not classes:
        return _empty()
    return Scored(
        *(
            np.concatenate([getattr(one, name) for one in classes])
            for name in ("scores", "right", "iou", "photo", "object_scores", "object_photo")
        )
    )


def _empty() -> Scored:
    none, no_index = np.zeros(0), np.zeros(0, np.int64)
    return Scored(none, np.zeros(0, bool), none, no_index, none, no_index)
