import pytest
import torch
from handmade import make_scene, suppress, truth_of

from focaldet.evaluation.average_precision import average_precision
from focaldet.runtime.results import coco_results
from focaldet.study.ranking import RankingMeasure, good_boxes, ranks, thresholds_met, true_scores

OBJECT = [0.0, 0.0, 100.0, 100.0]
GOOD, WORSE = [0.0, 0.0, 100.0, 95.0], [0.0, 0.0, 100.0, 70.0]  # IoU .95 and .7


def measure(*scenes):
    whole = RankingMeasure(suppress)
    for scene in scenes:
        whole.add(scene)
    return whole.result(truth_of(*scenes))


def test_a_better_box_that_scores_less_is_lost():
    scene = make_scene([OBJECT], [GOOD, WORSE], [0.6, 0.8])
    result = measure(scene)
    assert (result["candidates_objects"], result["best_lost"], result["best_lost_threshold"]) == (1, 1, 1)
    assert (result["iou_before"], result["iou_after"]) == pytest.approx((0.95, 0.7))


def test_a_better_box_that_scores_more_stays():
    result = measure(make_scene([OBJECT], [GOOD, WORSE], [0.8, 0.6]))
    assert (result["best_lost"], result["best_lost_threshold"]) == (0, 0)
    assert result["iou_after"] == pytest.approx(0.95)


def test_a_loss_within_two_thresholds_costs_no_precision():
    result = measure(make_scene([OBJECT], [[0, 0, 100, 93], [0, 0, 100, 91]], [0.6, 0.8]))  # IoU .93 and .91
    assert (result["best_lost"], result["best_lost_threshold"]) == (1, 0)


def test_boxes_ranked_by_their_iou_are_the_headroom():
    scene = make_scene([OBJECT], [GOOD, WORSE], [0.6, 0.8])
    truth = truth_of(scene)
    assert average_precision(truth, coco_results(1, scene.detections)).metrics["AP"] == pytest.approx(0.5)  # .5 to .7
    assert measure(scene)["oracle_AP"] == pytest.approx(1.0)  # all ten


def test_a_photo_without_objects_counts_in_the_oracles_precision_only():
    empty = make_scene([], [GOOD], [0.9], image_id=2)
    result = measure(make_scene([OBJECT], [GOOD], [0.9]), empty)
    assert (result["sites"], result["objects"], result["candidates_objects"]) == (1, 1, 1)
    assert true_scores(empty).tolist() == [0.0]


def test_no_candidate_is_no_failure():
    result = measure(make_scene([OBJECT], [], []))
    assert result["sites"] == result["candidates_objects"] == 0
    assert result["iou_before"] is None
    assert result["class_score"] == {"pooled": None, "per_object": None}


def boxes_of_iou(*ious):
    return [[0.0, 0.0, 100.0, 100.0 * iou] for iou in ious]


def test_the_product_with_a_good_quality_ranks_right_where_the_class_ranks_wrong():
    ious = (0.55, 0.65, 0.75, 0.85, 0.95)
    scene = make_scene([OBJECT], boxes_of_iou(*ious), [0.9, 0.8, 0.7, 0.6, 0.5], quality=[0.1, 0.3, 0.5, 0.7, 1.0])
    result = measure(scene)
    assert result["class_score"]["per_object"] == -1
    assert result["quality"]["per_object"] == 1
    assert result["score"]["per_object"] == 1  # .09 .24 .35 .42 .5


def test_a_method_without_a_quality_has_none():
    result = measure(make_scene([OBJECT], boxes_of_iou(0.55, 0.65, 0.75, 0.85, 0.95), [0.1, 0.2, 0.3, 0.4, 0.5]))
    assert result["quality"] is None
    assert result["score"] == result["class_score"] == {"pooled": 1.0, "per_object": 1.0}


def test_order_among_the_boxes_of_an_object_is_not_order_over_all():
    # Within each object the score falls with the IoU; over both it rises.
    iou = torch.tensor([0.5, 0.51, 0.52, 0.53, 0.54, 0.90, 0.91, 0.92, 0.93, 0.94])
    value = torch.tensor([0.15, 0.14, 0.13, 0.12, 0.11, 0.95, 0.94, 0.93, 0.92, 0.91])
    result = ranks(value, iou, torch.tensor([0] * 5 + [7] * 5))
    assert result["per_object"] == -1
    assert result["pooled"] > 0.4


def test_objects_of_two_photos_are_two():
    scenes = [make_scene([OBJECT], boxes_of_iou(0.6, 0.7), [0.5, 0.6], image_id=image) for image in (1, 2)]
    assert good_boxes(scenes[1], first_object=1).object.tolist() == [1, 1]
    assert measure(*scenes)["objects"] == 2


def test_the_score_that_counts_is_the_objects_class():
    scene = make_scene([OBJECT], [GOOD], [0.3])
    scene = type(scene)(**vars(scene) | {"class_scores": torch.tensor([[0.3, 0.9]]), "gt_labels": torch.tensor([1])})
    assert good_boxes(scene).class_score.tolist() == pytest.approx([0.9])
    assert true_scores(scene).tolist() == [0.0]  # the candidate is of class 0


def test_thresholds_are_met_from_their_value_on():
    assert thresholds_met(torch.tensor([0.4999, 0.5, 0.75, 0.95, 1.0])).tolist() == [0, 1, 6, 10, 10]
