"""Match predicted boxes to objects by COCO's greedy rule, with a result per box for pictures and counts.

Axes: N predicted boxes, G objects of one image.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from focaldet.records.run_files import Json, Run, rows

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MATCH_IOU = 0.5
UNMATCHED = -1  # in `matched_gt`: a false positive
IN_CROWD = -2  # in `matched_gt`: inside a crowd region, neither a true nor a false positive


@dataclass(frozen=True)
class ImageResult:
    """One image with its objects and its predicted boxes, best first.

    Args:
        image_id, file_name, width, height: as in the ground truth, pixels.
        gt_xyxy: ``(G, 4)``, without crowds; gt_labels: ``(G,)`` class indices.
        boxes_xyxy: ``(N, 4)``; labels, scores: ``(N,)``.
        side_std_px: ``(N, 4)`` left, top, right, bottom; NaN for a box without standard deviations.
        matched_gt: ``(N,)`` index of the matched object, ``UNMATCHED`` or ``IN_CROWD``.
        iou: ``(N,)`` IoU with the matched object, otherwise the highest IoU with any object of the box's class.
        confused_with: ``(N,)`` for a false positive, the object of another class that it overlaps more than any other
            object and by an IoU of at least ``MATCH_IOU``; ``UNMATCHED`` for every other box.
    """

    image_id: object
    file_name: str
    width: int
    height: int
    gt_xyxy: Floats
    gt_labels: Ints
    boxes_xyxy: Floats
    labels: Ints
    scores: Floats
    side_std_px: Floats
    matched_gt: Ints
    iou: Floats
    confused_with: Ints

    def counts(self, threshold: float) -> tuple[int, int, int]:
        """(true positives, false positives, missed objects) for boxes with at least the score ``threshold``."""
        kept = self.matched_gt[self.scores >= threshold]
        found = int((kept >= 0).sum())
        return found, int((kept == UNMATCHED).sum()), len(self.gt_labels) - found

    def f1(self, threshold: float) -> float:
        """2 · found / (2 · found + false + missed); 1 for an image without objects and without boxes."""
        found, false, missed = self.counts(threshold)
        return 2 * found / (2 * found + false + missed) if found + false + missed else 1.0


def pairwise_iou(a_xyxy: Floats, b_xyxy: Floats, over_a: bool = False) -> Floats:
    """``(N, G)`` intersection over union, or over the area of ``a`` alone. A box without area gives 0.

    >>> pairwise_iou(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2]])).round(3)
    array([[0.333]])
    """
    low = np.maximum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])
    high = np.minimum(a_xyxy[:, None, 2:], b_xyxy[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0.0), axis=2)
    area_a, area_b = (np.prod(np.maximum(x[:, 2:] - x[:, :2], 0.0), axis=1) for x in (a_xyxy, b_xyxy))
    whole = area_a[:, None] if over_a else area_a[:, None] + area_b[None, :] - shared
    result: Floats = shared / np.maximum(whole, 1e-9)
    return result


def match_run(run: Run, *, iou: float = MATCH_IOU) -> list[ImageResult]:
    """Match every image of the evaluated split; an empty list if ground truth or predictions are missing.

    Args:
        iou: a box matches an object only with at least this IoU; 0: with any overlap.

    Raises:
        ValueError: an entry is not in COCO format, or a box belongs to a photo that is not in the ground truth.
    """
    if run.predictions is None or not run.truth:
        return []
    try:
        index = {c["id"]: i for i, c in enumerate(rows(run.truth.get("categories")))}
        images = {image["id"]: image for image in rows(run.truth.get("images"))}
        objects, predicted = _by_image(rows(run.truth.get("annotations"))), _by_image(run.predictions)
        if strange := [key for key in predicted if key not in images]:
            raise ValueError(f"a box belongs to photo {strange[0]!r}, which is not in truth.json")
        return [
            _match_image(image, objects.get(k, []), predicted.get(k, []), index, iou) for k, image in images.items()
        ]
    except KeyError as error:
        raise ValueError(f"an entry has no {error}") from error
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from error


def _by_image(items: Iterable[Json]) -> dict[object, list[Json]]:
    grouped: dict[object, list[Json]] = {}
    for item in items:
        grouped.setdefault(item["image_id"], []).append(item)
    return grouped


def _match_image(
    image: Json, objects: list[Json], predicted: list[Json], index: dict[object, int], least_iou: float
) -> ImageResult:
    predicted = sorted((p for p in predicted if p["category_id"] in index), key=lambda p: -p["score"])
    crowd = [o for o in objects if o.get("iscrowd")]
    objects = [o for o in objects if not o.get("iscrowd") and o["category_id"] in index]
    boxes, gt = _xyxy(predicted), _xyxy(objects)
    labels, gt_labels = (np.array([index[x["category_id"]] for x in xs], np.int64) for xs in (predicted, objects))
    overlap, same_class = pairwise_iou(boxes, gt), labels[:, None] == gt_labels[None, :]
    matched, best = match_greedily(overlap * same_class, least_iou)
    crowd_labels = np.array([index.get(c["category_id"], -1) for c in crowd], np.int64)
    in_crowd = (pairwise_iou(boxes, _xyxy(crowd), over_a=True) >= MATCH_IOU) & (labels[:, None] == crowd_labels)
    matched[(matched == UNMATCHED) & in_crowd.any(axis=1)] = IN_CROWD
    lies_on = overlap >= overlap.max(axis=1, initial=MATCH_IOU)[:, None]  # the object it overlaps most, if enough
    of_another = np.where(lies_on & ~same_class, np.arange(len(gt)), UNMATCHED).max(axis=1, initial=UNMATCHED)
    scores = np.array([p["score"] for p in predicted], np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("a score is NaN or infinite")
    unknown = [float("nan")] * 4
    return ImageResult(
        image_id=image["id"],
        file_name=str(image["file_name"]),
        width=max(int(image["width"]), 1),
        height=max(int(image["height"]), 1),
        gt_xyxy=gt,
        gt_labels=gt_labels,
        boxes_xyxy=boxes,
        labels=labels,
        scores=scores,
        side_std_px=np.array([p.get("side_std") or unknown for p in predicted], np.float64).reshape(-1, 4),
        matched_gt=matched,
        iou=best,
        confused_with=np.where(matched == UNMATCHED, of_another, UNMATCHED),
    )


def _xyxy(items: Sequence[Json]) -> Floats:
    boxes = np.array([item["bbox"] for item in items], np.float64).reshape(-1, 4)
    if not np.isfinite(boxes).all():
        raise ValueError("a box has a NaN or infinite coordinate")
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def match_greedily(iou: Floats, least: float) -> tuple[Ints, Floats]:
    """Match each box, best score first, to the free object it overlaps most, if the IoU is at least ``least``."""
    count, num_gt = iou.shape
    matched, best = np.full(count, UNMATCHED, np.int64), iou.max(axis=1, initial=0.0)
    free = np.ones(num_gt, bool)
    for i in range(count if num_gt else 0):
        candidates = np.where(free, iou[i], -1.0)
        g = int(candidates.argmax())
        if candidates[g] >= least and candidates[g] > 0:
            matched[i], best[i], free[g] = g, iou[i, g], False
    return matched, best


def best_threshold(results: Sequence[ImageResult]) -> float:
    """Confidence threshold with the best F1 over all images, used to draw and count boxes.

    Matching is greedy by score, so a box keeps its object at every threshold, and one pass over the sorted scores
    covers all thresholds.
    """
    if not results:
        return 0.5
    scores = np.concatenate([r.scores for r in results])
    matched = np.concatenate([r.matched_gt for r in results])
    counted = matched != IN_CROWD
    scores, found = scores[counted], (matched[counted] >= 0)
    num_gt = sum(len(r.gt_labels) for r in results)
    if not found.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    f1 = 2 * np.cumsum(found[order]) / (np.arange(1, len(order) + 1) + num_gt)
    return float(scores[order][int(f1.argmax())])
