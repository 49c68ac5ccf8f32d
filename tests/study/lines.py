"""Lines of study.jsonl with made-up numbers."""

from focaldet.evaluation.average_precision import METRICS

SPLIT = {"loss_share": 0.9, "gradient_share": 0.8, "background_loss": 9.0, "object_loss": 1.0}
IMBALANCE = {"background_sites": 90, "object_sites": 10, "own": SPLIT, "hardest_percent": 0.2}


def ranking(correlation=0.5):
    of = {"pooled": 0.1, "per_object": correlation}
    return {
        "sites": 100,
        "objects": 10,
        "class_score": of,
        "quality": None,
        "score": of,
        "candidates_objects": 8,
        "best_lost": 4,
        "best_lost_threshold": 2,
        "iou_before": 0.9,
        "iou_after": 0.8,
        "oracle_AP": 0.7,
    }


def line(rung, seed, ap, *, diverged=None):
    measured = diverged is None
    cost = {
        "minutes": 10.0,
        "epochs": 3,
        "steps": 30,
        "seconds": {"load": 0.1, "forward": 0.3},
        "images_per_second": 9.0,
        "peak_memory_mb": 100.0,
        "terms_first": {"class": 1.0},
        "terms_last": {"class": 0.5},
    }
    return {
        "format": 1,
        "rung": rung,
        "seed": seed,
        "settings": {},
        "diverged": diverged,
        "split": "test",
        "metrics": {name: ap if measured and not name.endswith("small") else None for name in METRICS},
        "per_class": [{"name": "cell", "objects": 9, "AP": ap, "AP50": ap, "AP75": ap}] if measured else [],
        "imbalance_start": IMBALANCE,
        "imbalance_end": IMBALANCE if measured else None,
        "ranking": ranking() if measured else None,
        "deviations": None,
        "bands": {"deviation": None, "size": {"boxes": 100, "covered": 0.9, "width_px": 30.0 - 10 * ap}}
        if measured
        else {"deviation": None, "size": None},
        "cost": cost,
    }
