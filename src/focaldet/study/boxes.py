"""The detections of a photo for the page: with true IoU, both scores and the four distributions."""

from torch import Tensor

from focaldet.records.study_details import Box
from focaldet.study.scenes import Scene, best_iou


def page_boxes(scene: Scene) -> list[Box]:
    """Detections of a photo for the page, best first."""
    best, right = best_iou(scene.candidate_iou[scene.kept]), scene.found_objects >= 0
    return [
        _box(scene, index, float(best[place]), bool(right[place])) for place, index in enumerate(scene.kept.tolist())
    ]


def _box(scene: Scene, index: int, iou: float, found: bool) -> Box:
    boxes = scene.candidates
    location, label = int(boxes.location[index]), int(boxes.labels[index])
    deviation = boxes.side_std_px
    box = Box(
        box_xyxy=_numbers(boxes.boxes_xyxy[index], 2),
        label=label,
        score=round(float(boxes.scores[index]), 4),
        class_score=round(float(scene.class_scores[location, label]), 4),
        quality=None if scene.quality is None else round(float(scene.quality[location]), 4),
        iou=round(iou, 4),
        found=found,
        side_std_px=None,
        distributions=None,
        origin_xy=None,
        bin_xy=None,
    )
    if deviation is not None:
        box["side_std_px"] = _numbers(deviation[index], 2)
        box["distributions"] = [_numbers(side, 4) for side in boxes.box_params[index].view(4, -1).softmax(dim=-1)]
        box["origin_xy"] = _numbers(scene.points_xy[location], 2)
        box["bin_xy"] = _numbers(scene.strides_xy[location], 3)
    return box


def _numbers(values: Tensor, digits: int) -> list[float]:
    return [round(value, digits) for value in values.tolist()]
