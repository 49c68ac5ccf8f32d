"""Factors and thresholds compared with puncc's and MAPIE's (tests/tools/conformal_fixture.py); errors box by box."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from evaluation.many_photos import many_photos, with_false
from focaldet.evaluation.matching import match_run
from focaldet.evaluation.score_calibration import laace0, laece0
from focaldet.evaluation.scored import scored_by_class
from focaldet.evaluation.side_bands import conformal_factor
from focaldet.evaluation.thresholds import promises
from focaldet.records.run_files import Run
from focaldet.runtime.side_bands import side_units
from report.run_folder import jittered

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures" / "conformal.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", FIXTURE["bands"], ids=lambda case: f"{len(case['true'])} boxes")
def test_factors_by_the_size_of_the_box_are_those_of_puncc(case):
    predicted, true = np.array(case["predicted"]), np.array(case["true"])
    ratios = (np.abs(predicted - true) / side_units(predicted, None, "size")).max(axis=1)
    own = [conformal_factor(ratios, np.arange(len(ratios)), coverage) for coverage in FIXTURE["coverages"]]
    assert own == pytest.approx(case["factors"])


@pytest.mark.parametrize("case", FIXTURE["precision"], ids=lambda case: f"{len(case['right'])} detections")
@pytest.mark.parametrize("precision", ["0.7", "0.8", "0.9"])
def test_chance_of_a_broken_promise_is_that_of_mapie(case, precision):
    """MAPIE rounds the number of mistakes up, at times by one too many because of floating point."""
    scores, right, share = np.array(case["scores"]), np.array(case["right"]), float(precision)
    equal = 0
    for threshold, p in zip(FIXTURE["thresholds"], case["p_values"][precision], strict=True):
        kept = right[scores >= threshold]
        hits, count = int(kept.sum()), len(kept)
        if promises(hits, count, share, 1 - p * 1.001) and not promises(hits, count, share, 1 - p * 0.999):
            equal += 1
        else:
            chances = [binom.cdf(count - hits + more, count, 1 - share) for more in (0, 1)]
            assert chances[0] * 0.999 <= p <= chances[1] * 1.001
    assert equal >= len(FIXTURE["thresholds"]) / 2


def box_by_box(truth, results, least_score, bins=25):
    """LaECE0 and LaACE0 as the paper defines them (Kuzucu et al., ECCV 2024, eq. 7 and 8), from boxes alone.

    A detection is matched to the free object of its class with the largest IoU, best score first, at any overlap; the
    target is that IoU, 0 without a match. ``saece`` of the authors' code: bins (j/25, (j + 1)/25], weighted by count.
    """

    def iou(a, b):
        width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
        height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
        shared = max(width, 0.0) * max(height, 0.0)
        return shared / (a[2] * a[3] + b[2] * b[3] - shared)

    ece, ace = [], []
    for category in truth["categories"]:
        pairs = []
        for image in truth["images"]:
            free = [
                a["bbox"]
                for a in truth["annotations"]
                if a["image_id"] == image["id"] and a["category_id"] == category["id"]
            ]
            mine = [
                r
                for r in results
                if r["image_id"] == image["id"] and r["category_id"] == category["id"] and r["score"] >= least_score
            ]
            for found in sorted(mine, key=lambda r: -r["score"]):
                overlaps = [iou(found["bbox"], box) for box in free]
                best = max(overlaps, default=0.0)
                pairs.append((found["score"], best))
                if best > 0:
                    free.pop(overlaps.index(best))
        total = 0.0
        for j in range(bins):
            inside = [(score, target) for score, target in pairs if j / bins < score <= (j + 1) / bins]
            total += abs(sum(score for score, _ in inside) - sum(target for _, target in inside))
        ece.append(total / len(pairs))
        ace.append(sum(abs(score - target) for score, target in pairs) / len(pairs))
    return sum(ece) / len(ece), sum(ace) / len(ace)


@pytest.mark.parametrize("least_score", [0.0, 0.4])
def test_errors_are_those_of_counting_box_by_box(tmp_path, least_score):
    truth = many_photos(30, ["cell", "dust"])
    results = with_false(truth, jittered(truth, seed=2, spread=0.1), 150)
    classes = scored_by_class(match_run(Run(tmp_path, truth=truth, predictions=results), iou=0.0), 2)
    kept = [one.at_least(least_score) for one in classes]
    scores = [one.scores for one in kept]
    ece, ace = box_by_box(truth, results, least_score)
    assert laece0(kept, scores) == pytest.approx(ece)
    assert laace0(kept, scores) == pytest.approx(ace)
    assert 0.01 < ece < ace
