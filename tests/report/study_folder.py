"""Study folders as focaldet.records.study describes them: made-up measurements, real curves of the losses.

``write_study`` makes the whole folder from a truth of ``run_folder``; each number follows the story along the ladder,
with seeded random spread over the seeds.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from run_folder import jittered

from focaldet.study.ladder import LADDER, RUNGS, choose_rungs
from focaldet.study.neuron import neuron_numbers
from focaldet.study.rung import Rung
from focaldet.study.summary import summarise

SETTINGS = {"data": "photos/bccd", "size": 320, "minutes": 10.0, "backbone": "regnetx_002", "batch": 8}
SETTINGS |= {"gamma": 2.0, "beta": 2.0, "num_bins": 17}
METRICS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100", "AR_small", "AR_medium")
METRICS += ("AR_large",)
NUM_BINS = 17
STRIDE = 8.0
GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)


def write_study(
    folder: Path,
    truth: dict,
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    folds: bool = False,
    rungs: list[str] | None = None,
    finished: int | None = None,
    diverged: tuple[str, ...] = (),
    num_photos: int = 4,
) -> Path:
    """Write a study.

    Args:
        folds: whether each seed belongs to a fold.
        rungs: rungs of the ladder; ``None``: all of them, and extra ones of each kind.
        finished: number of measured rungs; ``None``: all.
        diverged: rungs whose training stopped short with every seed.
    """
    extra = {} if rungs else {"gammas": (0.0, 1.0, 5.0), "betas": (1.0,), "bins": (9,)}
    chosen = choose_rungs(rungs, **extra, settings=SETTINGS)
    names = [category["name"] for category in truth["categories"]]
    counts = [sum(a["category_id"] == c["id"] for a in truth["annotations"]) for c in truth["categories"]]
    study = {
        "format": 1,
        "focaldet": "0.1.0",
        "data": "photos/bccd",
        "description": "Pascal VOC, recognised by 364 XML files in Annotations; the folder's own splits",
        "settings": SETTINGS,
        "rungs": [rung.row() for rung in chosen],
        "seeds": list(seeds),
        "class_names": names,
        "split": "test",
        "photos": {"train": 205, "val": 87, "test": len(truth["images"])},
        "objects": {"train": [4 * n for n in counts], "val": counts, "test": counts},
        "rare_label": int(np.argmin(counts)),
        "machine": "x86_64, 2 cores, torch 2.10",
        "max_detections": 100,
    }
    if folds:
        names = [image["file_name"] for image in truth["images"]]
        study["folds"] = [names[number :: len(seeds)] for number in range(len(seeds))]
        study["photos"] = {f"fold {n}": len(fold) for n, fold in enumerate(study["folds"], start=1)}
        study["objects"] = dict.fromkeys(study["photos"], counts)
    lines, done = [], chosen[:finished]
    for rung in done:
        for seed in seeds:
            line, details = _line(rung, seed, study), _details(rung, seed, truth, num_photos)
            if rung.name in diverged:
                line |= {"diverged": "the loss is nan at step 7", "imbalance_end": None, "ranking": None}
                line |= {
                    "deviations": None,
                    "bands": {"deviation": None, "size": None},
                    "per_class": [],
                    "metrics": dict.fromkeys(line["metrics"]),
                }
                details |= {"curves_end": None, "deciles": None, "sharpest": [], "most_ambiguous": [], "photos": []}
            lines.append(line)
            _write(folder / "details" / f"{rung.name}-{seed}.json", details)
    _write(folder / "study.json", study)
    (folder / "study.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _write(folder / "summary.json", summarise(study, lines))
    root = Path(truth["info"]["root"])
    absolute = [image | {"file_name": str(root / image["file_name"])} for image in truth["images"]]
    _write(folder / "truth.json", truth | {"images": absolute})
    _write(folder / "neuron.json", neuron_numbers())
    return folder


def _write(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))


def _step(rung: Rung) -> int:
    """Position on the ladder, 0 to 7; an extra rung has its parent's position."""
    ladder, name = [one.name for one in LADDER], rung.name
    while name not in ladder:
        name = RUNGS[name].before if name in RUNGS else str(rung.before)
    return ladder.index(name)


def _rng(rung: Rung, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, *rung.name.encode()])


def _has_distributions(rung: Rung) -> bool:
    return rung.changes["method"] in ("gfl", "gflv2", "tood", "rtmdet")


def _line(rung: Rung, seed: int, study: dict) -> dict:
    rng, step = _rng(rung, seed), _step(rung)
    ap = [0.21, 0.29, 0.43, 0.46, 0.52, 0.535, 0.545, 0.55][step] + 0.008 * rng.normal()
    factors = dict(zip(METRICS, (1, 1.4, 1.1, 0.4, 0.8, 1.1, 0.5, 0.9, 1.1, 0.5, 0.9, 1.2), strict=True))
    metrics = {name: None if name == "AP_small" else factor * ap for name, factor in factors.items()}
    per_class = [
        {"name": name, "objects": count, "AP": ap - 0.05 * i, "AP50": ap + 0.2, "AP75": ap}
        for i, (name, count) in enumerate(zip(study["class_names"], list(study["objects"].values())[-1], strict=True))
    ]
    terms = {"class": 0.6, "box": 0.7} | ({"distribution": 0.2} if _has_distributions(rung) else {})
    bins = {"sides": 3000, "correlation": 0.45, "correlation_relative": 0.31, "ratio": 1.2, "within_1": 0.6}
    parts = {"load": 0.01, "forward": 0.12, "assign": 0.004, "loss": 0.02, "log": 0.001}
    seconds = {**parts, "backward": 0.2 + 0.01 * step, "update": 0.03}
    score = [0.1, 0.15, 0.2, 0.3, 0.33, 0.45, 0.47, 0.5][step] + 0.01 * rng.normal()
    branch = rung.changes["method"] in ("fcos", "atss") and rung.changes["class_loss"] == "focal"
    ranks = {"pooled": score - 0.05, "per_object": score}
    return {
        "format": 1,
        "rung": rung.name,
        "seed": seed,
        "settings": study["settings"] | rung.changes | {"seed": seed},
        "split": "test",
        "metrics": metrics,
        "per_class": per_class,
        "imbalance_start": _imbalance(0.9995 if step == 0 else 0.8, 0.999 if step == 0 else 0.6),
        "imbalance_end": _imbalance(0.6 if step < 2 else 0.3, 0.5 if step < 2 else 0.2),
        "ranking": {
            "sites": 9000,
            "objects": 800,
            "class_score": {"pooled": 0.2, "per_object": score - 0.05} if branch else ranks,
            "quality": {"pooled": 0.3, "per_object": 0.25} if branch else None,
            "score": ranks,
            "candidates_objects": 900,
            "best_lost": 500 - 30 * step,
            "best_lost_threshold": 300 - 25 * step,
            "iou_before": 0.86,
            "iou_after": 0.78,
            "oracle_AP": ap + 0.15,
        },
        "diverged": None,
        "deviations": bins | {"within_2": 0.9} if _has_distributions(rung) else None,
        "bands": {
            "deviation": {"boxes": 700, "covered": 0.905, "width_px": 31.4} if _has_distributions(rung) else None,
            "size": {"boxes": 700, "covered": 0.895, "width_px": 37.6},
        },
        "cost": {
            "minutes": 10.0,
            "epochs": 40,
            "steps": 1000,
            "seconds": seconds,
            "images_per_second": 20.0,
            "peak_memory_mb": 1500.0,
            "terms_first": {name: 2 * value for name, value in terms.items()},
            "terms_last": terms,
        },
    }


def _imbalance(loss: float, gradient: float) -> dict:
    own = _split(loss, gradient)
    return {"background_sites": 98_000, "object_sites": 180, "own": own, "hardest_percent": 0.4}


def _split(loss: float, gradient: float) -> dict:
    return {
        "loss_share": loss,
        "gradient_share": gradient,
        "background_loss": 2 * loss,
        "object_loss": 2 * (1 - loss),
    }


def _curves(start: bool) -> dict:
    fractions = np.concatenate([np.linspace(0, 0.9, 19), np.linspace(0.91, 1, 31)])
    losses = []
    for gamma in GAMMAS:
        steepness = 2 + (1 if start else 6) * (1 + gamma)
        losses.append(
            {
                "gamma": gamma,
                "split": _split(0.95 / (1 + gamma), 0.9 / (1 + gamma)),
                "background": (fractions**steepness).tolist(),
                "objects": (fractions ** (1 + 0.3 * gamma)).tolist(),
            }
        )
    return {"fractions": fractions.tolist(), "losses": losses}


def _details(rung: Rung, seed: int, truth: dict, num_photos: int) -> dict:
    step, with_sides = _step(rung), _has_distributions(rung)
    predictions = jittered(truth, seed=step, missed=0.2 - 0.02 * step)
    images = [image["id"] for image in truth["images"]][:num_photos]
    photos = [
        {"image_id": image, "boxes": [_box(p, rung) for p in predictions if p["image_id"] == image]} for image in images
    ]
    for photo in photos:
        photo["boxes"].sort(key=lambda box: -box["score"])
    found = [(photo["image_id"], box) for photo in photos for box in photo["boxes"] if box["found"]]
    examples = [_example(image, box, truth, i % 4) for i, (image, box) in enumerate(found[:8])] if with_sides else []
    examples.sort(key=lambda example: example["std_bins"])
    ap = 0.2 + 0.05 * step
    history = [
        {"epoch": e, "minutes": (e + 1) / 4, "loss": 2 / (e + 1), "AP": ap * (1 - 0.9**e) if e % 4 == 3 else None}
        for e in range(40)
    ]
    deciles = [{"sides": 300, "deviation_px": 0.5 * (i + 1), "error_px": 0.4 * (i + 1) + 0.5} for i in range(10)]
    return {
        "format": 1,
        "rung": rung.name,
        "seed": seed,
        "history": history,
        "curves_start": _curves(True),
        "curves_end": _curves(False),
        "deciles": deciles if with_sides else None,
        "sharpest": examples[:4],
        "most_ambiguous": examples[::-1][:4],
        "photos": photos,
    }


def _box(prediction: dict, rung: Rung) -> dict:
    """A detection of ``jittered`` with distributions of its deviations around its sides."""
    x, y, w, h = prediction["bbox"]
    box, score = [x, y, x + w, y + h], prediction["score"]
    branch = rung.changes["method"] in ("fcos", "atss") and rung.changes["class_loss"] == "focal"
    result = {
        "box_xyxy": box,
        "label": prediction["category_id"],
        "score": score,
        "class_score": min(score / 0.8, 1.0) if branch else score,
        "quality": 0.8 if branch else None,
        "iou": 0.8,
        "found": score > 0.5,
        "side_std_px": None,
        "distributions": None,
        "origin_xy": None,
        "bin_xy": None,
    }
    if _has_distributions(rung):
        bin_px = max(w, h) / NUM_BINS * 1.4
        origin = [x + w / 2, y + h / 2]
        sides = []
        for distance, std in zip((w / 2, h / 2, w / 2, h / 2), prediction["side_std"], strict=True):
            weights = np.exp(-0.5 * ((np.arange(NUM_BINS) * bin_px - distance) / max(std, 0.4 * bin_px)) ** 2)
            sides.append((weights / weights.sum()).round(4).tolist())
        result |= {"side_std_px": prediction["side_std"], "distributions": sides}
        result |= {"origin_xy": origin, "bin_xy": [bin_px, bin_px]}
    return result


def _example(image_id: int, box: dict, truth: dict, side: int) -> dict:
    nearest = min(
        (a for a in truth["annotations"] if a["image_id"] == image_id),
        key=lambda a: abs(a["bbox"][0] - box["box_xyxy"][0]) + abs(a["bbox"][1] - box["box_xyxy"][1]),
    )
    x, y, w, h = nearest["bbox"]
    gt = [x, y, x + w, y + h]
    std = box["side_std_px"][side] / box["bin_xy"][side % 2]
    error = abs(gt[side] - box["box_xyxy"][side])
    return {
        "image_id": image_id,
        "box": box,
        "side": side,
        "std_bins": std,
        "error_px": error,
        "object_xyxy": gt,
    }
