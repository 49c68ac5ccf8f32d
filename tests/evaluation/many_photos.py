"""Truth of many drawn photos, and false boxes among the predictions."""

import numpy as np


def many_photos(count: int, names: list[str]) -> dict:
    """Photos of 320 x 240 px with 2 to 6 objects in two rows."""
    rng = np.random.default_rng(7)
    images, annotations = [], []
    for index in range(count):
        images.append({"id": index, "file_name": f"{index}.jpg", "width": 320, "height": 240})
        for place in range(rng.integers(2, 7)):
            x, y = 100 * (place % 3) + rng.uniform(2, 15), 110 * (place // 3) + rng.uniform(2, 15)
            box = [x, y, *rng.uniform(25, 85, 2)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": place % len(names),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(names)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def with_false(truth: dict, results: list[dict], count: int) -> list[dict]:
    """The results with false boxes whose scores are often lower."""
    rng = np.random.default_rng(5)
    false = [
        {
            "image_id": int(rng.integers(len(truth["images"]))),
            "category_id": int(rng.integers(len(truth["categories"]))),
            "bbox": [*rng.uniform(200, 280, 1), *rng.uniform(180, 220, 1), 12.0, 9.0],
            "score": float(rng.beta(2, 5)),
            "side_std": [1.0, 1.0, 1.0, 1.0],
        }
        for _ in range(count)
    ]
    return results + false
