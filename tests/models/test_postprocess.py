"""Post-processing against the plain order of steps: everything through the sigmoid, everything decoded."""

import math
from dataclasses import dataclass

import pytest
import torch

from focaldet.boxes.iou import pairwise_iou
from focaldet.boxes.locations import Lattice, flatten_levels
from focaldet.methods.atss import ATSS
from focaldet.methods.gfl import GFL
from focaldet.models.postprocess import PostProcess, ScoreRule
from focaldet.structures import HeadOutputs

STRIDES = (8, 16, 32)
SHAPES = ((12, 16), (6, 8), (3, 4))
IMAGE = (96, 128)
NUM_CLASSES = 4


def random_outputs(seed, batch=2, low=-7.0, high=4.0):
    """Logits without ties, and GFL's box numbers with sides of some strides."""
    generator = torch.Generator().manual_seed(seed)
    counts = [batch * NUM_CLASSES * math.prod(shape) for shape in SHAPES]
    logits = torch.linspace(low, high, sum(counts))[torch.randperm(sum(counts), generator=generator)]
    class_logits = [
        level.view(batch, NUM_CLASSES, *shape) for level, shape in zip(logits.split(counts), SHAPES, strict=True)
    ]
    box_maps = [torch.randn(batch, 68, *shape, generator=generator) * 3 for shape in SHAPES]
    return HeadOutputs(class_logits, box_maps)


def plain(outputs, image, size, *, threshold=0.05, topk_candidates=1000, nms_iou=0.6, max_detections=100):
    """The detections of an image by the plain steps: boxes, scores, labels, deviations."""
    lattice = Lattice(SHAPES, STRIDES)
    scores = flatten_levels(outputs.class_logits, NUM_CLASSES)[image].double().sigmoid()
    box_params = flatten_levels(outputs.box_maps, 68)[image]
    boxes, deviation = GFL().decode(box_params, GFL().locations(lattice))
    limits = torch.tensor([size[1], size[0], size[1], size[0]])
    boxes = boxes.clamp(min=torch.zeros(4), max=limits)
    chosen = []  # (score, location, label)
    for start, count in zip(lattice.level_starts, lattice.level_sizes, strict=True):
        level = [
            (float(scores[location, label]), location, label)
            for location in range(start, start + count)
            for label in range(NUM_CLASSES)
            if scores[location, label] > threshold
        ]
        chosen += sorted(level, reverse=True)[:topk_candidates]
    kept = []
    overlaps = pairwise_iou(boxes.double(), boxes.double())
    for score, location, label in sorted(chosen, reverse=True):
        x1, y1, x2, y2 = boxes[location].tolist()
        if x2 <= x1 or y2 <= y1:
            continue
        if all(overlaps[location, other] <= nms_iou for _, other, other_label in kept if other_label == label):
            kept.append((score, location, label))
    kept = kept[:max_detections]
    locations = [location for _, location, _ in kept]
    return boxes[locations], [score for score, _, _ in kept], [label for _, _, label in kept], deviation[locations]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"topk_candidates": 20},
        {"max_detections": 7},
        {"nms_iou": 0.2},
        {"nms_iou": 1.0, "max_detections": 5000},
        {"score_threshold": 0.5},
        {"score_threshold": 0.0, "max_detections": 300},
    ],
)
@pytest.mark.parametrize("size", [IMAGE, (61, 100)])
def test_detections_are_those_of_the_plain_steps(options, size):
    outputs = random_outputs(seed=len(options))
    found = PostProcess(GFL(), STRIDES, **options)(outputs, [size, size])
    if "score_threshold" in options:
        options = {**options, "threshold": options["score_threshold"]}
        del options["score_threshold"]
    for image, detections in enumerate(found):
        boxes, scores, labels, deviation = plain(outputs, image, size, **options)
        assert len(detections) == len(scores) > 0
        assert detections.labels.tolist() == labels
        assert detections.scores.tolist() == pytest.approx(scores, abs=1e-6)
        torch.testing.assert_close(detections.boxes_xyxy, boxes)
        torch.testing.assert_close(detections.side_std_px, deviation)


def test_scores_are_sorted_and_boxes_lie_inside_their_own_image():
    sizes = [IMAGE, (50, 70)]
    for detections, (height, width) in zip(PostProcess(GFL(), STRIDES)(random_outputs(3), sizes), sizes, strict=True):
        assert bool((detections.scores.diff() <= 0).all())
        x1, y1, x2, y2 = detections.boxes_xyxy.T
        assert bool(((x1 >= 0) & (y1 >= 0) & (x2 <= width) & (y2 <= height)).all())
        assert bool(((x2 > x1) & (y2 > y1)).all())
        assert detections.scores.dtype == torch.float32
        assert detections.labels.dtype == torch.int64


def test_no_candidate_gives_empty_results_of_the_right_shapes():
    outputs = random_outputs(0, low=-20, high=-10)
    for detections in PostProcess(GFL(), STRIDES)(outputs, [IMAGE, IMAGE]):
        assert len(detections) == 0
        assert detections.boxes_xyxy.shape == (0, 4)
        assert detections.scores.shape == detections.labels.shape == (0,)
        assert detections.side_std_px.shape == (0, 4)
        assert detections.labels.dtype == torch.int64


def test_batch_of_no_image_gives_no_results():
    assert PostProcess(GFL(), STRIDES)(random_outputs(0, batch=1), []) == []


def one_peak(logit, label=1, location=(2, 3)):
    outputs = random_outputs(0, batch=1, low=-20, high=-10)
    outputs.class_logits[0][0, label, *location] = logit
    return outputs


def test_score_at_the_threshold_is_no_detection_and_above_it_is():
    process = PostProcess(GFL(), STRIDES, score_threshold=0.5)
    assert len(process(one_peak(0.0), [IMAGE])[0]) == 0
    (detections,) = process(one_peak(1e-3), [IMAGE])
    assert detections.labels.tolist() == [1]
    assert detections.scores.tolist() == pytest.approx([0.50025])


def test_nan_logit_is_no_detection_and_hides_no_other():
    outputs = one_peak(3.0)
    outputs.class_logits[0][0, 0, 5, 5] = math.nan
    (detections,) = PostProcess(GFL(), STRIDES)(outputs, [IMAGE])
    assert detections.scores.tolist() == pytest.approx([1 / (1 + math.exp(-3))])
    assert detections.labels.tolist() == [1]


def test_nan_box_is_no_detection():
    outputs = one_peak(3.0)
    outputs.box_maps[0][0, 0, 2, 3] = math.nan
    assert len(PostProcess(GFL(), STRIDES)(outputs, [IMAGE])[0]) == 0


def test_same_box_of_two_classes_is_two_detections_and_of_one_class_is_one():
    outputs = one_peak(3.0)
    outputs.class_logits[0][0, 2, 2, 3] = 2.0
    (detections,) = PostProcess(GFL(), STRIDES)(outputs, [IMAGE])
    assert detections.labels.tolist() == [1, 2]
    assert torch.equal(detections.boxes_xyxy[0], detections.boxes_xyxy[1])


def test_offset_moves_the_boxes_by_half_a_stride():
    outputs = one_peak(3.0)
    outputs.box_maps[0].zero_()
    outputs.box_maps[0][0, 1::17] = 50.0  # every side at bin 1
    (half,) = PostProcess(GFL(), STRIDES)(outputs, [IMAGE])
    (zero,) = PostProcess(GFL(), STRIDES, offset=0.0)(outputs, [IMAGE])
    assert half.boxes_xyxy.tolist() == [[20, 12, 36, 28]]  # around column 3, row 2: (28, 20)
    assert zero.boxes_xyxy.tolist() == [[16, 8, 32, 24]]


def test_method_whose_sides_are_single_numbers_has_no_deviations():
    outputs = random_outputs(1)
    distances = [level[:, :4].abs() for level in outputs.box_maps]
    found = PostProcess(ATSS(class_loss="quality_focal"), STRIDES)(
        HeadOutputs(outputs.class_logits, distances), [IMAGE, IMAGE]
    )
    assert all(len(detections) > 0 and detections.side_std_px is None for detections in found)


def test_half_precision_maps_give_float32_detections():
    outputs = random_outputs(2)
    half = HeadOutputs([m.bfloat16() for m in outputs.class_logits], [m.bfloat16() for m in outputs.box_maps])
    detections = PostProcess(GFL(), STRIDES)(half, [IMAGE, IMAGE])[0]
    assert detections.boxes_xyxy.dtype == detections.scores.dtype == torch.float32


def with_quality(seed):
    outputs = random_outputs(seed)
    generator = torch.Generator().manual_seed(seed + 100)
    quality = [torch.randn(2, 1, *shape, generator=generator) for shape in SHAPES]
    return HeadOutputs(outputs.class_logits, outputs.box_maps, quality)


@dataclass(frozen=True, kw_only=True)
class Ruled(GFL):
    """GFL's boxes with any score rule."""

    rule: ScoreRule

    @property
    def score_rule(self):
        return self.rule


@pytest.mark.parametrize("combine", ["product", "sqrt"])
@pytest.mark.parametrize("threshold_on", ["score", "class"])
@pytest.mark.parametrize("topk_candidates", [1000, 30])
def test_score_of_class_and_quality_is_that_of_the_plain_steps(combine, threshold_on, topk_candidates):
    outputs = with_quality(3)
    method = Ruled(rule=ScoreRule(combine, threshold_on))
    process = PostProcess(
        method, STRIDES, nms_iou=None, max_detections=10_000, topk_candidates=topk_candidates, score_threshold=0.2
    )
    for image, detections in enumerate(process(outputs, [IMAGE, IMAGE])):
        expected = []
        for level, (height, width) in enumerate(SHAPES):
            p = outputs.class_logits[level][image].double().sigmoid().flatten(1)  # (C, HW)
            score = p * outputs.quality_logits[level][image].double().sigmoid().flatten(1)
            score = score.sqrt() if combine == "sqrt" else score
            ranked = score if threshold_on == "score" else p
            kept = sorted(((float(r), float(s)) for r, s in zip(ranked.flatten(), score.flatten(), strict=True)))
            expected += [s for r, s in kept[::-1][:topk_candidates] if r > 0.2]
            assert height * width == p.shape[1]
        # Boxes that the image cuts to nothing are left out.
        found = detections.scores.tolist()
        assert 0 < len(found) <= len(expected)
        nearest = (torch.tensor(found).double()[:, None] - torch.tensor(expected).double()).abs().amin(dim=1)
        assert float(nearest.max()) < 1e-6
        assert found[0] == pytest.approx(max(expected), abs=1e-6)
        assert found == sorted(found, reverse=True)


def test_without_suppression_every_candidate_stays():
    outputs = random_outputs(5)
    process = PostProcess(GFL(), STRIDES, nms_iou=None, max_detections=10_000)
    loose = PostProcess(GFL(), STRIDES, nms_iou=1.0, max_detections=10_000)
    for all_of_them, kept in zip(process(outputs, [IMAGE] * 2), loose(outputs, [IMAGE] * 2), strict=True):
        assert torch.equal(all_of_them.scores, kept.scores)
        assert torch.equal(all_of_them.boxes_xyxy, kept.boxes_xyxy)
