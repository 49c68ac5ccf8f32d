"""Hand-made outputs of a detector for photos."""

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from focaldet.models.postprocess import Candidates
from focaldet.study.scenes import Scene


def suppress(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    return batched_nms(boxes, scores, labels, 0.6)


def make_scene(
    gt: list[list[float]],
    boxes: list[list[float]],
    class_scores: list[float],
    *,
    quality: list[float] | None = None,
    std: list[list[float]] | None = None,
    image_id: int = 1,
) -> Scene:
    """One class; every location's box goes into the suppression."""
    count = len(boxes)
    boxes_xyxy, scores = torch.tensor(boxes, dtype=torch.float32).view(-1, 4), torch.tensor(class_scores)
    final = scores if quality is None else scores * torch.tensor(quality)
    labels = torch.zeros(count, dtype=torch.int64)
    deviation = None if std is None else torch.tensor(std, dtype=torch.float32).view(-1, 4)
    candidates = Candidates(boxes_xyxy, final, labels, torch.arange(count), torch.zeros(count, 4 * 3), deviation)
    return Scene(
        image_id=image_id,
        gt_xyxy=torch.tensor(gt).view(-1, 4),
        gt_labels=torch.zeros(len(gt), dtype=torch.int64),
        boxes_xyxy=boxes_xyxy,
        class_scores=scores[:, None],
        quality=None if quality is None else torch.tensor(quality),
        candidates=candidates,
        kept=suppress(boxes_xyxy, final, labels),
        points_xy=torch.zeros(count, 2),
        strides_xy=torch.full((count, 2), 8.0),
    )


def truth_of(*scenes: Scene) -> dict[str, list[dict[str, object]]]:
    """The COCO data set of some photos."""
    annotations = []
    for scene in scenes:
        for x1, y1, x2, y2 in scene.gt_xyxy.tolist():
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                {"image_id": scene.image_id, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            )
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    return {
        "info": {},  # type: ignore[dict-item]
        "images": [{"id": scene.image_id, "file_name": "", "width": 200, "height": 200} for scene in scenes],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cell"}],
    }
