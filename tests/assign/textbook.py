"""The assignments as the papers write them: every location against every object, image by image, object by object.

Plain NumPy. The precision decides ties: IoUs, areas and the distances to an object's sides are float32 (so that equal
boxes have equal numbers); in ATSS the distances of centres and the statistics of the IoUs are float64. Each takes one
image, ``(G, 4)`` float32 boxes, to ``(P,)`` indices of boxes, or ``BACKGROUND`` or ``IGNORED``.
"""

import numpy as np

BACKGROUND, IGNORED = -1, -2


def locations_and_anchors(level_shapes, strides, offset, anchor_scale):
    """Centres ``(P, 2)``, anchors ``(P, 4)`` and level ``(P,)`` of all locations."""
    points, anchors, levels = [], [], []
    for level, ((height, width), stride) in enumerate(zip(level_shapes, strides, strict=True)):
        half = anchor_scale * stride / 2
        for i in range(height):
            for j in range(width):
                x, y = (j + offset) * stride, (i + offset) * stride
                points.append((x, y))
                anchors.append((x - half, y - half, x + half, y + half))
                levels.append(level)
    return np.array(points, np.float32), np.array(anchors, np.float32), np.array(levels)


def iou(anchors, box):
    """IoU of anchors ``(N, 4)`` with one box, float32."""
    width = np.minimum(anchors[:, 2], box[2]) - np.maximum(anchors[:, 0], box[0])
    height = np.minimum(anchors[:, 3], box[3]) - np.maximum(anchors[:, 1], box[1])
    intersection = np.maximum(width, np.float32(0)) * np.maximum(height, np.float32(0))
    anchor_areas = (anchors[:, 2] - anchors[:, 0]) * (anchors[:, 3] - anchors[:, 1])
    return intersection / (anchor_areas + (box[2] - box[0]) * (box[3] - box[1]) - intersection)


def atss(boxes_xyxy, level_shapes, strides, *, offset=0.5, top_k=9, anchor_scale=8.0):
    """Algorithm 1 of the paper."""
    points, anchors, levels = locations_and_anchors(level_shapes, strides, offset, anchor_scale)
    matched = np.full(len(points), BACKGROUND)
    matched_iou = np.full(len(points), -1.0)
    for g, box in enumerate(boxes_xyxy):
        center = (box[:2] + box[2:]) / np.float32(2)
        squared = ((points.astype(np.float64) - center) ** 2).sum(axis=1)
        candidates = []
        for level in range(len(strides)):
            of_level = np.flatnonzero(levels == level)
            order = np.argsort(squared[of_level], kind="stable")  # of equally far locations the lower index first
            candidates += of_level[order[:top_k]].tolist()
        overlaps = iou(anchors[candidates], box)
        spread = overlaps.std(ddof=1, dtype=np.float64) if len(candidates) > 1 else 0.0
        threshold = overlaps.mean(dtype=np.float64) + spread
        for location, overlap in zip(candidates, overlaps, strict=True):
            x, y = points[location]
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > np.float32(0.01)
            # Of objects with equal IoU the first keeps the location.
            if overlap >= threshold and inside and overlap > matched_iou[location]:
                matched[location], matched_iou[location] = g, overlap
    return matched


def center_region(boxes_xyxy, level_shapes, strides, *, offset=0.5, radius=1.5, ranges=None):
    """FCOS: inside the object and its centre region, the largest distance in the level's range, smallest object."""
    points, _, levels = locations_and_anchors(level_shapes, strides, offset, 1.0)
    if ranges is None:
        ends = [64 * 2**level for level in range(len(strides) - 1)]  # the paper's, for strides 8, 16, 32 ...
        ranges = list(zip([0, *ends], [*ends, np.inf], strict=True))
    low, high = np.array(ranges, np.float32)[levels].T
    margin = np.float32(np.inf if radius is None else radius) * np.array(strides, np.float32)[levels]
    matched, matched_area = np.full(len(points), BACKGROUND), np.full(len(points), np.inf, np.float32)
    x, y = points.T
    for g, (x1, y1, x2, y2) in enumerate(boxes_xyxy):
        center_x, center_y, area = (x1 + x2) / np.float32(2), (y1 + y2) / np.float32(2), (x2 - x1) * (y2 - y1)
        left, right = np.maximum(x1, center_x - margin), np.minimum(x2, center_x + margin)
        top, bottom = np.maximum(y1, center_y - margin), np.minimum(y2, center_y + margin)
        largest = np.max([x - x1, y - y1, x2 - x, y2 - y], axis=0)
        positive = (left < x) & (x < right) & (top < y) & (y < bottom) & (low <= largest) & (largest <= high)
        positive &= area < matched_area  # of objects of equal area the first keeps the location
        matched[positive], matched_area[positive] = g, area
    return matched


def anchors_of_shapes(level_shapes, strides, offset, shapes_px):
    """Anchors ``(P A, 4)``: ``shapes_px`` ``(L, A, 2)`` around every location."""
    points, _, levels = locations_and_anchors(level_shapes, strides, offset, 1.0)
    half = shapes_px[levels] / np.float32(2)  # (P, A, 2)
    return np.concatenate([points[:, None] - half, points[:, None] + half], axis=2).reshape(-1, 4)


def max_iou(
    boxes_xyxy,
    level_shapes,
    strides,
    *,
    shapes_px,
    offset=0.5,
    positive_iou=0.5,
    negative_iou=0.4,
    low_quality=True,
):
    """RetinaNet: thresholds on the IoU with the object of highest IoU, and every object's best anchors."""
    anchors = anchors_of_shapes(level_shapes, strides, offset, shapes_px)
    best, own = np.full(len(anchors), -1, np.float32), np.full(len(anchors), BACKGROUND)
    best_of_an_object = np.zeros(len(anchors), bool)
    for g, box in enumerate(boxes_xyxy):
        overlaps = iou(anchors, box)
        higher = overlaps > best  # of objects with equal IoU the first keeps the anchor
        best[higher], own[higher] = overlaps[higher], g
        if overlaps.max() > 0:
            best_of_an_object |= overlaps == overlaps.max()
    matched = np.where(best >= positive_iou, own, np.where(best >= negative_iou, IGNORED, BACKGROUND))
    return np.where(best_of_an_object, own, matched) if low_quality else matched


def task_aligned(alignment, overlap, boxes, level_shapes, strides, *, offset=0.5, top_k=13):
    """TOOD: the object of each location, and its soft target if it has an object.

    ``alignment`` and ``overlap`` ``(P, G)``: the network's values for each object at each location.
    """
    points, _, _ = locations_and_anchors(level_shapes, strides, offset, 1)
    matched, best = np.full(len(points), BACKGROUND), np.full(len(points), -1.0, np.float32)
    for g, box in enumerate(boxes):
        inside = [p for p in range(len(points)) if min(*(points[p] - box[:2]), *(box[2:] - points[p])) > 0]
        for p in sorted(inside, key=lambda p: -alignment[p, g])[:top_k]:  # of equal ones the lower location
            if overlap[p, g] > best[p]:  # of objects with equal IoU the first keeps the location
                matched[p], best[p] = g, overlap[p, g]
    targets = np.zeros(len(points), np.float32)
    for g in range(len(boxes)):
        own = matched == g
        if own.any():
            targets[own] = alignment[own, g] / alignment[own, g].max() * overlap[own, g].max()
    return matched, targets


def soft_labels(probabilities, overlap, labels, boxes, level_shapes, strides, *, offset=0.5):
    """RTMDet: the object of each location, and the soft target of each location that has one; matrices of all pairs.

    ``probabilities`` ``(P, C)`` and ``overlap`` ``(P, G)``, float64, say what the network makes of each location.
    """
    points, _, levels = locations_and_anchors(level_shapes, strides, offset, 1)
    (num_locations, num_classes), num_gt = probabilities.shape, len(boxes)
    if num_gt == 0:
        return np.full(num_locations, BACKGROUND), np.zeros(num_locations)
    to_sides = np.concatenate([points[:, None] - boxes[:, :2], boxes[:, 2:] - points[:, None]], axis=2)
    inside = to_sides.min(axis=2) > 0  # (P, G)

    label = overlap[:, :, None] * np.eye(num_classes)[labels]  # (P, G, C)
    p = probabilities[:, None]
    cross_entropy = -label * np.log(p) - (1 - label) * np.log(1 - p)
    class_cost = (cross_entropy * np.abs(label - p) ** 2).sum(axis=2)
    centers = (boxes[:, :2].astype(np.float64) + boxes[:, 2:]) / 2
    distance = np.sqrt(((points[:, None] - centers) ** 2).sum(axis=2)) / np.array(strides)[levels][:, None]
    cost = class_cost + 3 * -np.log(overlap + 1e-7) + 10 ** (distance - 3)
    cost = np.where(inside, cost, np.inf)

    largest = np.sort(np.where(inside, overlap, 0), axis=0)[-13:]
    k = np.maximum(1, np.floor(largest.sum(axis=0)))
    place = cost.argsort(axis=0, kind="stable").argsort(axis=0)
    cost = np.where(inside & (place < k), cost, np.inf)
    matched = np.where(np.isfinite(cost).any(axis=1), cost.argmin(axis=1), BACKGROUND)
    return matched, np.where(matched >= 0, overlap[np.arange(num_locations), matched], 0)
