"""ATSS as the paper writes it (algorithm 1): every anchor against every object, image by image, object by object.

Plain NumPy. Where two numbers may tie it states what the tie is decided on: distances are float64, IoUs are float32 (so
that equal boxes have equal IoU), the statistics of the IoUs are float64.
"""

import numpy as np

BACKGROUND, IGNORED = -1, -2


def sites_and_anchors(level_shapes, strides, offset, anchor_scale):
    """Centres ``(P, 2)``, anchors ``(P, 4)`` and level ``(P,)`` of all sites."""
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
    """One image: ``(G, 4)`` float32 boxes to ``(P,)`` indices of boxes, or ``BACKGROUND``."""
    points, anchors, levels = sites_and_anchors(level_shapes, strides, offset, anchor_scale)
    matched = np.full(len(points), BACKGROUND)
    matched_iou = np.full(len(points), -1.0)
    for g, box in enumerate(boxes_xyxy):
        center = (box[:2] + box[2:]) / np.float32(2)
        squared = ((points.astype(np.float64) - center) ** 2).sum(axis=1)
        candidates = []
        for level in range(len(strides)):
            of_level = np.flatnonzero(levels == level)
            order = np.argsort(squared[of_level], kind="stable")  # of equally far sites the lower index first
            candidates += of_level[order[:top_k]].tolist()
        overlaps = iou(anchors[candidates], box)
        spread = overlaps.std(ddof=1, dtype=np.float64) if len(candidates) > 1 else 0.0
        threshold = overlaps.mean(dtype=np.float64) + spread
        for site, overlap in zip(candidates, overlaps, strict=True):
            x, y = points[site]
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > np.float32(0.01)
            # Of objects with equal IoU the first keeps the site.
            if overlap >= threshold and inside and overlap > matched_iou[site]:
                matched[site], matched_iou[site] = g, overlap
    return matched
