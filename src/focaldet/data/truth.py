"""Labelled photos as a COCO data set: what AP is measured against."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from focaldet.data.records import NO_CLASS, ImageRecord


def coco_truth(records: Sequence[ImageRecord], class_names: Sequence[str]) -> dict[str, Any]:
    """The objects of some images as a COCO data set. Ignored regions are its crowds, those of no class one of each.

    Args:
        class_names: name of each label.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, record in enumerate(records):
        images.append(
            {
                "id": index + 1,
                "file_name": str(record.path.resolve()),
                "width": record.width,
                "height": record.height,
            }
        )
        corner, opposite = record.boxes_xyxy[:, :2], record.boxes_xyxy[:, 2:]
        boxes = np.concatenate([corner, opposite - corner], axis=1).tolist()
        for box, label, ignored in zip(boxes, record.labels.tolist(), record.ignored.tolist(), strict=True):
            for category in range(len(class_names)) if label == NO_CLASS else (label,):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index + 1,
                        "category_id": category + 1,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": int(ignored),
                    }
                )
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(class_names)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}
