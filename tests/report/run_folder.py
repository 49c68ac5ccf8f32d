"""Run folders as the engine leaves them: real photos and truth, predictions jittered by a seeded generator."""

import json
import math
from pathlib import Path

import defusedxml.ElementTree
import numpy as np
import pytest
import yaml
from PIL import Image

BCCD = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "bccd"
CLASSES = ["RBC", "WBC", "Platelets"]

CONFIG = {
    "data": "photos/bccd",
    "method": "gfl",
    "backbone": "tf_efficientnet_lite0",
    "size": 320,
    "minutes": 10.0,
    "seed": 0,
    "optimizer": {"lr": 0.002, "weight_decay": 0.05, "warmup_steps": 100, "schedule": "cosine", "betas": [0.9, 0.999]},
    "augment": {"flip": True, "scale": [0.6, 1.4], "crop": True, "color": 0.2},
    "loss": {"class_loss": "quality_focal", "beta": 2.0, "giou_weight": 2.0, "distribution_weight": 0.25},
}


def bccd_truth(split: str = "test", names: list[str] = CLASSES) -> dict:
    """The blood-cell photos of one split as COCO ground truth; skips the test if they are missing."""
    if not BCCD.is_dir():
        pytest.skip(f"needs the blood-cell photos in {BCCD}")
    images, annotations = [], []
    for stem in (BCCD / "ImageSets" / "Main" / f"{split}.txt").read_text().split():
        root = defusedxml.ElementTree.parse(BCCD / "Annotations" / f"{stem}.xml").getroot()
        width, height = (int(root.find("size").find(key).text) for key in ("width", "height"))
        images.append({"id": len(images), "file_name": f"{stem}.jpg", "width": width, "height": height})
        for item in root.iter("object"):
            x1, y1, x2, y2 = (float(item.find("bndbox").find(key).text) for key in ("xmin", "ymin", "xmax", "ymax"))
            if x2 > x1 and y2 > y1:
                label = CLASSES.index(item.find("name").text)
                annotations.append(_annotation(len(annotations), len(images) - 1, label, [x1, y1, x2 - x1, y2 - y1]))
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    root = str((BCCD / "JPEGImages").resolve())
    return {"info": {"root": root}, "images": images, "annotations": annotations, "categories": categories}


def drawn_truth(folder: Path, names: list[str], num_images: int = 4) -> dict:
    """Small drawn photos with three objects each, for tests that must run anywhere."""
    images, annotations = [], []
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(num_images):
        Image.new("RGB", (160, 120), (90 + 20 * i, 120, 140)).save(folder / f"photo{i}.jpg")
        images.append({"id": i, "file_name": f"photo{i}.jpg", "width": 160, "height": 120})
        for j in range(3):
            annotations.append(_annotation(len(annotations), i, j % len(names), [10 + 45 * j, 20 + 10 * i, 35, 40]))
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    return {"info": {"root": str(folder)}, "images": images, "annotations": annotations, "categories": categories}


def _annotation(number: int, image_id: int, label: int, bbox: list[float]) -> dict:
    area = bbox[2] * bbox[3]
    return {"id": number, "image_id": image_id, "category_id": label, "bbox": bbox, "area": area, "iscrowd": 0}


def jittered(truth: dict, seed: int, missed: float = 0.1, spread: float = 0.03) -> list[dict]:
    """Predictions near the truth: sides have normal errors of known deviation; some boxes are missed, some false."""
    rng = np.random.default_rng(seed)
    quality = {image["id"]: rng.uniform(0.3, 2.0) for image in truth["images"]}
    size = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    predictions = []
    for item in truth["annotations"]:
        image_id, (x, y, w, h) = item["image_id"], item["bbox"]
        if rng.uniform() < missed * quality[image_id]:
            continue
        std = np.clip(rng.gamma(2.0, spread / 2, 4) * np.array([w, h, w, h]) * quality[image_id], 0.3, None)
        x1, y1, x2, y2 = np.array([x, y, x + w, y + h]) + rng.normal(size=4) * std
        box = [x1, y1, max(x2 - x1, 1.0), max(y2 - y1, 1.0)]
        score = float(np.clip(rng.beta(9, 3), 0.05, 0.99))
        predictions.append(_prediction(image_id, item["category_id"], box, score, std))
    for image_id, (width, height) in size.items():
        for _ in range(rng.poisson(3)):
            box = [rng.uniform(0, 0.8) * width, rng.uniform(0, 0.8) * height, 0.15 * width, 0.2 * height]
            score = float(rng.beta(2, 5))
            label = int(rng.integers(len(truth["categories"])))
            predictions.append(_prediction(image_id, label, box, score, rng.uniform(2, 12, 4)))
    return predictions


def _prediction(image_id: int, label: int, bbox: list, score: float, std: np.ndarray) -> dict:
    box, side_std = [round(float(v), 2) for v in bbox], [round(float(v), 2) for v in std]
    return {"image_id": image_id, "category_id": label, "bbox": box, "score": round(score, 4), "side_std": side_std}


def metrics_lines(num_epochs: int = 40) -> list[dict]:
    lines = []
    for epoch in range(num_epochs):
        done = (epoch + 1) / num_epochs
        terms = {"class": 0.2 + 0.8 * math.exp(-5 * done), "box": 0.3 + 0.9 * math.exp(-4 * done), "distribution": 0.2}
        ap = 0.62 * (1 - math.exp(-4 * done))
        lines.append(
            {
                "epoch": epoch,
                "step": 26 * (epoch + 1),
                "minutes": round(10 * done, 3),
                "lr": 0.001 * (1 + math.cos(math.pi * done)),
                "train": {"loss": sum(terms.values()), **terms},
                "val": {"AP": ap, "AP50": min(1.4 * ap, 1), "AP75": 0.9 * ap} if epoch % 4 == 3 else None,
                "images_per_second": 13.9,
                "num_pos": 131.5,
                "seconds": {"load": 0.011, "network": 0.49, "assign": 0.006, "loss": 0.031, "other": 0.02},
            }
        )
    return lines


def write_run(folder: Path, truth: dict, predictions: list[dict], method: str = "gfl", ap: float = 0.612) -> Path:
    """Write all six files of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [category["name"] for category in truth["categories"]]
    model = {"method": method, "class_names": names, "backbone": "tf_efficientnet_lite0", "size": 320}
    model |= {"strides": [8, 16, 32, 64, 128], "num_bins": 17, "focaldet": "0.1.0"}
    counts = [sum(a["category_id"] == category["id"] for a in truth["annotations"]) for category in truth["categories"]]
    metrics = {
        "AP": ap,
        "AP50": 1.42 * ap,
        "AP75": 1.09 * ap,
        "AP_small": -1,
        "AP_medium": 0.7 * ap,
        "AP_large": 1.05 * ap,
    }
    metrics |= {"AR1": 0.32, "AR10": 0.59, "AR100": 0.7}
    per_class = [
        {"name": name, "objects": counts[i], "AP": ap - 0.05 * i, "AP50": ap + 0.2, "AP75": ap}
        for i, name in enumerate(names)
    ]
    evaluation = {"split": "test", "images": len(truth["images"]), "objects": len(truth["annotations"])}
    evaluation |= {"metrics": metrics, "per_class": per_class}
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG | {"method": method}, sort_keys=False))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics_lines()))
    contents = {"model": model, "evaluation": evaluation, "truth": truth, "predictions": predictions}
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder
