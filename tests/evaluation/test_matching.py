import numpy as np
import pytest

from focaldet.evaluation.matching import IN_CROWD, UNMATCHED, best_threshold, match_run
from focaldet.records.run_files import Run
from report.run_folder import drawn_truth, jittered, write_run

IMAGE = {"id": 7, "file_name": "a.jpg", "width": 100, "height": 100}
CATEGORIES = [{"id": 3, "name": "cell"}, {"id": 9, "name": "dust"}]


def make_run(objects: list[tuple], predicted: list[tuple], tmp_path) -> Run:
    """Objects are (category, bbox, crowd); predictions are (category, bbox, score)."""
    annotations = [{"image_id": 7, "category_id": c, "bbox": b, "iscrowd": crowd} for c, b, crowd in objects]
    predictions = [{"image_id": 7, "category_id": c, "bbox": b, "score": s} for c, b, s in predicted]
    truth = {"images": [IMAGE], "annotations": annotations, "categories": CATEGORIES}
    return Run(tmp_path, truth=truth, predictions=predictions)


def match(objects: list[tuple], predicted: list[tuple], tmp_path):
    return match_run(make_run(objects, predicted, tmp_path))[0]


def test_better_score_takes_the_object_and_the_second_box_is_false(tmp_path) -> None:
    result = match([(3, [0, 0, 10, 10], 0)], [(3, [0, 0, 10, 9], 0.5), (3, [0, 0, 10, 8], 0.9)], tmp_path)
    assert result.scores.tolist() == [0.9, 0.5]
    assert result.matched_gt.tolist() == [0, UNMATCHED]
    assert result.iou.tolist() == pytest.approx([0.8, 0.9])
    assert result.counts(0.0) == (1, 1, 0)


def test_box_of_another_class_finds_nothing(tmp_path) -> None:
    result = match([(3, [0, 0, 10, 10], 0)], [(9, [0, 0, 10, 10], 0.9)], tmp_path)
    assert result.matched_gt.tolist() == [UNMATCHED]
    assert result.iou.tolist() == [0.0]
    assert result.counts(0.0) == (0, 1, 1)


def test_iou_of_one_half_is_a_match_and_less_is_not(tmp_path) -> None:
    objects = [(3, [0, 0, 10, 10], 0)]
    assert match(objects, [(3, [0, 0, 10, 5], 0.9)], tmp_path).matched_gt.tolist() == [0]
    assert match(objects, [(3, [0, 0, 10, 4.9], 0.9)], tmp_path).matched_gt.tolist() == [UNMATCHED]


def test_box_in_a_crowd_is_neither_found_nor_false(tmp_path) -> None:
    result = match([(3, [0, 0, 90, 90], 1)], [(3, [10, 10, 5, 5], 0.9), (9, [10, 10, 5, 5], 0.8)], tmp_path)
    assert result.matched_gt.tolist() == [IN_CROWD, UNMATCHED]
    assert result.counts(0.0) == (0, 1, 0)
    assert len(result.gt_labels) == 0


def test_box_under_the_threshold_leaves_its_object_missed(tmp_path) -> None:
    result = match([(3, [0, 0, 10, 10], 0)], [(3, [0, 0, 10, 10], 0.4)], tmp_path)
    assert result.counts(0.4) == (1, 0, 0)
    assert result.counts(0.41) == (0, 0, 1)
    assert result.f1(0.41) == 0.0


def test_image_without_objects_and_boxes_is_perfect(tmp_path) -> None:
    assert match([], [], tmp_path).f1(0.5) == 1.0
    assert match([], [(3, [0, 0, 9, 9], 0.9)], tmp_path).f1(0.5) == 0.0


def test_best_threshold_is_the_one_a_search_finds(tmp_path) -> None:
    truth = drawn_truth(tmp_path / "photos", ["a", "b"], num_images=30)
    results = match_run(Run(tmp_path, truth=truth, predictions=jittered(truth, seed=3, missed=0.2)))

    def f1(threshold: float) -> float:
        found, false, missed = np.sum([r.counts(threshold) for r in results], axis=0)
        return 2 * found / (2 * found + false + missed)

    every = np.concatenate([r.scores for r in results])
    threshold = best_threshold(results)
    assert 0.05 < threshold < 0.95
    assert f1(threshold) == max(map(f1, every))


def test_no_box_that_finds_anything_gives_the_middle_threshold(tmp_path) -> None:
    assert best_threshold([]) == 0.5
    assert best_threshold([match([(3, [0, 0, 9, 9], 0)], [], tmp_path)]) == 0.5


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ({"image_id": 8, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 0.5}, "photo 8"),
        ({"image_id": 7, "category_id": 3, "bbox": [0, 0, float("nan"), 1], "score": 0.5}, "NaN"),
        ({"image_id": 7, "category_id": 3, "bbox": [0, 0, 1, 1], "score": float("nan")}, "score"),
        ({"image_id": 7, "category_id": 3, "bbox": [0, 0, 1, 1]}, "score"),
        ({"image_id": [7], "category_id": 3, "bbox": [0, 0, 1, 1], "score": 0.5}, "unhashable"),
    ],
)
def test_box_that_is_not_as_coco_has_it_is_an_error(tmp_path, box: dict, reason: str) -> None:
    run = make_run([], [], tmp_path)
    run.predictions.append(box)
    with pytest.raises(ValueError, match=reason):
        match_run(run)


def test_page_names_what_does_not_fit_together(tmp_path) -> None:
    from focaldet.report import write_report

    truth = drawn_truth(tmp_path / "photos", ["cell"])
    foreign = [{"image_id": 99, "category_id": 0, "bbox": [0, 0, 1, 1], "score": 0.5}]
    run = write_run(tmp_path / "run", truth, foreign)
    (run / "metrics.jsonl").unlink()  # its charts take most of the time
    html = write_report(run).read_text(encoding="utf-8")
    assert "photo 99, which is not in truth.json" in html
    assert '<section id="photos">' not in html
