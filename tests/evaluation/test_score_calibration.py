import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from focaldet.evaluation import score_calibration as sc
from focaldet.evaluation.average_precision import average_precision
from focaldet.evaluation.matching import match_run
from focaldet.evaluation.scored import Scored, scored_by_class
from focaldet.records.run_files import Run
from report.run_folder import drawn_truth, jittered


def scored(scores, right, photo=None, iou=None) -> Scored:
    scores, right = np.asarray(scores, float), np.asarray(right, bool)
    photo = np.arange(len(scores)) if photo is None else np.asarray(photo)
    iou = right * 0.8 if iou is None else np.asarray(iou, float)
    return Scored(scores, right, iou, photo, np.where(right, scores, -1.0)[right], photo[right])


def drawn(count: int, seed: int, chance) -> Scored:
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.02, 0.98, count)
    return scored(scores, rng.uniform(size=count) < chance(scores))


def steep(scores):
    return 1 / (1 + np.exp(-12 * (scores - 0.5)))


@pytest.mark.parametrize(("count", "method"), [(150, "platt"), (5000, "isotonic")])
@pytest.mark.parametrize("seed", range(5))
def test_map_rises_everywhere_so_that_no_ranking_changes(count, method, seed):
    one = drawn(count, seed, steep)
    fitted = sc.fit_map(one.scores, one.right)
    assert fitted.method == method
    grid = np.linspace(0, 1, 10_001)
    chances = fitted(grid)
    assert (np.diff(chances) > 0).all()
    assert chances[0] >= 0
    assert chances[-1] <= 1
    order = np.argsort(one.scores)
    assert (np.argsort(fitted(one.scores)) == order).all()


@pytest.mark.parametrize("count", [400, 20_000])
def test_map_finds_the_chance_of_being_right(count):
    one = drawn(count, 0, steep)
    grid = np.linspace(0.05, 0.95, 50)
    off = np.abs(sc.fit_map(one.scores, one.right)(grid) - steep(grid))
    assert off.mean() < (0.05 if count == 400 else 0.02)


def test_isotonic_map_passes_through_the_middles_of_its_steps():
    one = drawn(5000, 3, steep)
    peer = IsotonicRegression(out_of_bounds="clip").fit(one.scores, one.right.astype(float))
    fitted = sc.fit_map(one.scores, one.right)
    middles = np.array(fitted.scores[1:-1])
    assert np.abs(fitted(middles) - peer.predict(middles)).mean() < 0.03  # half a detection more, and the tilt
    assert abs(fitted(one.scores).sum() - one.right.sum()) < 0.01 * one.right.sum()


def test_a_few_right_detections_are_no_certainty():
    scores = np.concatenate([np.linspace(0.03, 0.5, 600), np.linspace(0.6, 0.9, 600)])
    fitted = sc.fit_map(scores, scores > 0.55)
    assert fitted(1.0) < 1
    assert fitted(0.0) >= 0
    assert fitted(0.9) > 0.98


def test_scores_that_mean_nothing_have_no_map():
    rng = np.random.default_rng(0)
    for count in (60, 2000):
        scores = rng.uniform(0.1, 0.9, count)
        assert sc.fit_map(scores, 1 - scores > 0.5) is None  # the higher, the worse


def test_class_with_few_detections_shares_the_map_of_all():
    many, few = drawn(2000, 0, steep), drawn(30, 1, steep)
    maps, chosen = sc.fit_maps([many, few])
    assert chosen == [0, 1]
    assert maps[1].detections == 2030
    nothing, chosen = sc.fit_maps([few])
    assert (nothing, chosen) == ([], [None])
    assert (sc.apply_maps([few], (nothing, chosen))[0] == few.scores).all()


def test_cross_fitting_never_uses_a_photo_for_itself():
    photo = np.repeat(np.arange(50), 40)
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.02, 0.98, len(photo))
    right = rng.uniform(size=len(photo)) < scores
    one = scored(scores, right, photo)
    before = sc.cross_fitted([one], 50)[0]
    flipped = scored(scores, np.where(photo == 7, ~right, right), photo)
    after = sc.cross_fitted([flipped], 50)[0]
    assert (before[photo == 7] == after[photo == 7]).all()
    assert (before != after).any()


def test_calibration_lowers_the_error_on_photos_it_has_not_seen():
    classes = [drawn(4000, seed, steep) for seed in range(3)]
    raw = sc.calibration_error(classes, [one.scores for one in classes])
    fitted = sc.fit_maps(classes)
    new = [drawn(4000, seed, steep) for seed in range(10, 13)]
    assert raw > 0.1
    assert sc.calibration_error(new, sc.apply_maps(new, fitted)) < 0.03


def textbook_laece0(classes, scores, bins=25):
    errors = []
    for one, values in zip(classes, scores, strict=True):
        error = 0.0
        for j in range(bins):
            inside = (values > j / bins) & (values <= (j + 1) / bins)
            if inside.any():
                error += inside.mean() * abs(values[inside].mean() - one.iou[inside].mean())
        errors.append(error)
    return np.mean(errors)


def test_errors_are_those_of_the_paper():
    rng = np.random.default_rng(5)
    classes = []
    for seed in range(3):
        one = drawn(500 + seed, seed, steep)
        classes.append(scored(one.scores, one.right, iou=one.right * rng.uniform(0.5, 1, len(one.right))))
    scores = [one.scores for one in classes]
    assert sc.laece0(classes, scores) == pytest.approx(textbook_laece0(classes, scores))
    by_hand = np.mean([np.mean([abs(s - i) for s, i in zip(one.scores, one.iou, strict=True)]) for one in classes])
    assert sc.laace0(classes, scores) == pytest.approx(by_hand)


def test_class_without_objects_or_detections_counts_in_no_error():
    one, empty = drawn(100, 0, steep), scored([], [])
    only_false = scored([0.9, 0.8], [False, False])
    alone = sc.laece0([one], [one.scores])
    assert sc.laece0([one, empty, only_false], [one.scores, empty.scores, only_false.scores]) == alone
    assert sc.laece0([empty], [empty.scores]) is None


def test_reliability_counts_every_detection_once():
    one = drawn(1000, 0, steep)
    rows = sc.reliability(one.scores, one.right)
    assert sum(row["detections"] for row in rows) == 1000
    assert sum(row["detections"] * row["right"] for row in rows) == pytest.approx(one.right.sum(), abs=0.01)


@pytest.mark.parametrize("missed", [0.1, 0.4])
def test_ap_is_the_same_on_calibrated_scores(tmp_path, missed):
    truth = drawn_truth(tmp_path / "photos", ["cell", "dust"], num_images=120)
    truth["annotations"] = [entry | {"id": entry["id"] + 1} for entry in truth["annotations"]]
    results = jittered(truth, seed=1, missed=missed, spread=0.12)
    run = Run(tmp_path, truth=truth, predictions=results)
    classes = scored_by_class(match_run(run), 2)
    maps, chosen = sc.fit_maps(classes)
    assert all(index is not None for index in chosen)
    index = {category["id"]: i for i, category in enumerate(truth["categories"])}
    calibrated = [r | {"score": float(maps[chosen[index[r["category_id"]]]](r["score"]))} for r in results]
    assert max(abs(a["score"] - b["score"]) for a, b in zip(results, calibrated, strict=True)) > 0.05
    assert average_precision(truth, calibrated) == average_precision(truth, results)
