"""Labelled photos as a COCO data set for measuring AP, with the ids and areas of the user's own file."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from focaldet.data.records import NO_CLASS, ImageRecord

CocoId = int | str
"""Id of an image or a category in a COCO file: a number in COCO, also a word in other tools."""


def image_ids(records: Sequence[ImageRecord]) -> list[CocoId]:
    """The id of each image in COCO files: its own, or running numbers from 1 if two images share an id.

    That happens if a split consists of several files.
    """
    own = [record.image_id for record in records]
    return own if len(set(own)) == len(own) else list(range(1, len(own) + 1))


def category_ids(class_names: Sequence[str], own: Sequence[CocoId] = ()) -> list[CocoId]:
    """The id of each class in COCO files: its own, or label + 1 if there are none, or two classes share an id.

    Args:
        own: ``DataFolder.category_ids``.

    >>> category_ids(("cat", "dog"), (17, 18)), category_ids(("cat", "dog"))
    ([17, 18], [1, 2])
    """
    usable = len(own) == len(set(own)) == len(class_names)
    return list(own) if usable else list(range(1, len(class_names) + 1))


def coco_truth(
    records: Sequence[ImageRecord], class_names: Sequence[str], own_ids: Sequence[CocoId] = ()
) -> dict[str, Any]:
    """The objects of images as a COCO data set. Ignore regions become crowds; a region without a class becomes a crowd
    per class.

    Args:
        class_names: name of each label.
        own_ids: ``DataFolder.category_ids``; see ``category_ids``.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories = category_ids(class_names, own_ids)
    for key, record in zip(image_ids(records), records, strict=True):
        images.append(
            {
                "id": key,
                "file_name": str(record.path.resolve()),
                "width": record.width,
                "height": record.height,
            }
        )
        corner, sides = record.boxes_xyxy[:, :2], record.boxes_xyxy[:, 2:] - record.boxes_xyxy[:, :2]
        boxes = np.concatenate([corner, sides], axis=1).tolist()
        areas = (sides.astype(np.float64).prod(axis=1) if record.areas is None else record.areas).tolist()
        rows = zip(boxes, areas, record.labels.tolist(), record.ignored.tolist(), strict=True)
        for box, area, label, ignored in rows:
            for category in categories if label == NO_CLASS else (categories[label],):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": key,
                        "category_id": category,
                        "bbox": box,
                        "area": area,
                        "iscrowd": int(ignored),
                    }
                )
    named = [{"id": key, "name": name} for key, name in zip(categories, class_names, strict=True)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": named}
