"""The GFL page against its formula written out in float64, location by location."""

import math

import pytest
import scene
import torch
from scene import LATTICE, NUM_CLASSES, TRUTH, assignment_of, losses_of, truth_of, values

from focaldet.assign.atss import assign_atss
from focaldet.boxes.locations import Locations
from focaldet.checks import InputError
from focaldet.engine.config import RANGES
from focaldet.methods.gfl import GFL, MAX_BINS
from focaldet.methods.gflv2 import GFLv2
from focaldet.methods.positives import find_positives
from focaldet.models.joint import joint_logits
from focaldet.models.postprocess import PostProcess
from focaldet.structures import BACKGROUND, IGNORED, HeadOutputs

NUM_BINS = 17


def outputs_of(seed=0, **options):
    return scene.outputs_of(GFL(), seed, **options)


LOCATIONS = {(0, 18): 0, (0, 19): 0, (0, 13): 1, (0, 53): 0, (0, 5): IGNORED, (1, 27): 2, (1, 54): 2, (1, 0): IGNORED}


def location_channels(maps, image, location):
    """The channels of one location, float64."""
    level, start = (0, 0) if location < 48 else (1, 48)
    return maps[level][image].detach().flatten(1)[:, location - start].double().tolist()


def softmax(values):
    exps = [math.exp(v - max(values)) for v in values]
    return [e / sum(exps) for e in exps]


def overlaps(box, other):
    """IoU and generalised IoU of two boxes."""

    def area(b):
        return max(b[2] - b[0], 0) * max(b[3] - b[1], 0)

    common = area([max(box[0], other[0]), max(box[1], other[1]), min(box[2], other[2]), min(box[3], other[3])])
    hull = area([min(box[0], other[0]), min(box[1], other[1]), max(box[2], other[2]), max(box[3], other[3])])
    union = area(box) + area(other) - common
    return common / union, common / union - (hull - union) / hull


def plain_losses(outputs, truth, matched, weight_floor, beta=2.0):
    """The three terms of the GFL loss by loops over locations, classes and sides."""
    points, strides = LATTICE.points().double().tolist(), LATTICE.location_strides().tolist()
    class_sum = giou_sum = distribution_sum = weight_sum = 0.0
    num_pos = 0
    for image in range(matched.shape[0]):
        for location in range(LATTICE.num_locations):
            gt = int(matched[image, location])
            if gt == IGNORED:
                continue
            probs = [1 / (1 + math.exp(-z)) for z in location_channels(outputs.class_logits, image, location)]
            targets = [0.0] * NUM_CLASSES
            if gt >= 0:
                x, y = points[location]
                box_params = location_channels(outputs.box_maps, image, location)
                sides = [softmax(box_params[k * NUM_BINS : (k + 1) * NUM_BINS]) for k in range(4)]
                left, top, right, bottom = (sum(i * p for i, p in enumerate(s)) * strides[location] for s in sides)
                gt_box = truth.boxes_xyxy[gt].double().tolist()
                iou, giou = overlaps([x - left, y - top, x + right, y + bottom], gt_box)
                targets[int(truth.labels[gt])] = iou
                weight = max(probs)
                distances = [x - gt_box[0], y - gt_box[1], gt_box[2] - x, gt_box[3] - y]
                dfl = 0.0
                for side, distance in zip(sides, distances, strict=True):
                    target = min(max(distance / strides[location], 0), NUM_BINS - 1.1)
                    i = math.floor(target)
                    dfl -= (i + 1 - target) * math.log(side[i]) + (target - i) * math.log(side[i + 1])
                giou_sum += weight * 2 * (1 - giou)
                distribution_sum += weight * dfl / 4 / 4
                weight_sum += weight
                num_pos += 1
            for p, t in zip(probs, targets, strict=True):
                class_sum -= abs(t - p) ** beta * ((1 - t) * math.log(1 - p) + t * math.log(p))
    normalizer = max(weight_sum, weight_floor)
    return {
        "class": class_sum / max(num_pos, 1),
        "box": giou_sum / normalizer,
        "distribution": distribution_sum / normalizer,
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("weight_floor", [1e-6, 1.0, 50.0])
def test_terms_are_the_formula_written_out(seed, weight_floor):
    outputs, assignment = outputs_of(seed), assignment_of(LOCATIONS)
    losses = losses_of(GFL(weight_floor=weight_floor), outputs, TRUTH, assignment)
    expected = plain_losses(outputs, TRUTH, assignment.matched_gt, weight_floor)
    assert values(losses) == pytest.approx(expected, rel=2e-5)
    assert all(value > 0 for value in expected.values())


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_exponent_of_the_quality_focal_loss_is_an_option(beta):
    outputs, assignment = outputs_of(), assignment_of(LOCATIONS)
    losses = losses_of(GFL(beta=beta), outputs, TRUTH, assignment)
    expected = plain_losses(outputs, TRUTH, assignment.matched_gt, 1e-6, beta)
    assert values(losses) == pytest.approx(expected, rel=2e-5)


def test_batch_without_any_object_still_trains_the_classifier():
    outputs, truth = outputs_of(), truth_of([], [], [])
    method = GFL()
    assignment = method.assign(truth, LATTICE)
    losses = losses_of(method, outputs, truth, assignment)
    assert values(losses) == pytest.approx(plain_losses(outputs, truth, assignment.matched_gt, 1e-6), rel=2e-5)
    assert float(losses["box"].detach()) == 0
    assert float(losses["distribution"].detach()) == 0
    sum(losses.values()).backward()
    for level in outputs.class_logits:
        assert bool((level.grad > 0).all()), "every logit is to sink"
    for level in outputs.box_maps:
        assert not level.grad.any(), "a graph, so that every process reduces the same gradients, and zeros"


def one_weak_location(weight_floor):
    """One positive whose class probabilities are all .01: the weight is .01."""
    outputs = outputs_of()
    with torch.no_grad():
        for level in outputs.class_logits:
            level.fill_(-math.log(99))
    return values(losses_of(GFL(weight_floor=weight_floor), outputs, TRUTH, assignment_of({(0, 18): 0})))


def test_reference_normaliser_scales_a_weak_start_down_and_ours_does_not():
    """One location of weight .01: divided by its own sum it counts 1, divided by at least 1 it counts .01."""
    ours, reference = one_weak_location(weight_floor=1e-6), one_weak_location(weight_floor=1.0)
    assert one_weak_location(GFL().weight_floor) == ours
    for term in ("box", "distribution"):
        assert reference[term] == pytest.approx(0.01 * ours[term], rel=1e-4)
        assert ours[term] > 0.1
    assert reference["class"] == ours["class"]


def test_target_beyond_the_last_bin_is_clamped_short_of_it():
    """Location 0 is 4 px from the top left; the object ends 30 strides to its right and below."""
    truth = truth_of([[0.0, 0, 244, 244]], [0], [0])
    outputs, assignment = outputs_of(), assignment_of({(0, 0): 0})
    losses = losses_of(GFL(), outputs, truth, assignment)
    expected = plain_losses(outputs, truth, assignment.matched_gt, 1e-6)
    assert values(losses) == pytest.approx(expected, rel=2e-5)
    losses["distribution"].backward()
    right = outputs.box_maps[0].grad[0, 2 * NUM_BINS : 3 * NUM_BINS, 0, 0]
    assert right.argsort()[:2].tolist() == [16, 15], "15.9: most of the mass is asked for in bin 16, the rest in 15"


def test_objects_with_a_side_beyond_the_last_bin_are_counted():
    far = truth_of([[0.0, 0, 64, 48], [0, 0, 8, 8], [0, 0, 64, 48]], [0, 0, 0], [0, 1, 1])
    locations = {
        (0, 18): 0,
        (0, 19): 0,
        (1, 0): 1,
    }  # centres (20, 20) and (28, 20): the right side is 44 and 36 px away
    for num_bins, count in ((7, 0), (6, 1), (2, 1)):
        assert (
            GFL(num_bins=num_bins).beyond_reach(find_positives(far, assignment_of(locations), GFL().locations(LATTICE)))
            == count
        )
    assert GFL().beyond_reach(find_positives(far, assignment_of({}), GFL().locations(LATTICE))) == 0


def test_positive_location_outside_its_object_asks_for_bin_zero():
    """No method assigns one, but the page is safe on its own."""
    truth = truth_of([[40.0, 30, 60, 44]], [0], [0])
    outputs, assignment = outputs_of(), assignment_of({(0, 0): 0})
    expected = plain_losses(outputs, truth, assignment.matched_gt, 1e-6)
    assert values(losses_of(GFL(), outputs, truth, assignment)) == pytest.approx(expected, rel=2e-5)


def test_quality_target_is_detached_from_the_boxes():
    outputs = outputs_of()
    losses_of(GFL(), outputs, TRUTH, assignment_of(LOCATIONS))["class"].backward()
    assert all(level.grad is None for level in outputs.box_maps)
    assert all(bool(level.grad.any()) for level in outputs.class_logits)


def test_score_weight_is_detached_from_the_classes():
    outputs = outputs_of()
    losses = losses_of(GFL(), outputs, TRUTH, assignment_of(LOCATIONS))
    (losses["box"] + losses["distribution"]).backward()
    assert all(level.grad is None for level in outputs.class_logits)


def test_gradients_are_those_of_the_formula():
    """A central difference of the float64 formula at some values of a positive, a negative and an ignored location."""
    outputs, assignment = outputs_of(4), assignment_of({**LOCATIONS, (0, 20): IGNORED})
    losses = losses_of(GFL(), outputs, TRUTH, assignment)
    losses["class"].backward()
    step = 1e-3
    for channel, location in [(0, 7), (1, 31), (2, 20)]:  # no positives: their targets move with no class logit either
        analytic = float(outputs.class_logits[0].grad[0].flatten(1)[channel, location])
        ends = []
        for sign in (1, -1):
            moved = [level.detach().clone() for level in outputs.class_logits]
            moved[0][0].flatten(1)[channel, location] += sign * step
            ends.append(plain_losses(HeadOutputs(moved, outputs.box_maps), TRUTH, assignment.matched_gt, 1e-6)["class"])
        assert analytic == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-2, abs=1e-6)


def test_ignored_locations_give_no_gradient():
    outputs, assignment = outputs_of(), assignment_of(LOCATIONS)
    sum(losses_of(GFL(), outputs, TRUTH, assignment).values()).backward()
    class_grad = torch.cat([level.grad.flatten(2) for level in outputs.class_logits], dim=2).mT
    box_grad = torch.cat([level.grad.flatten(2) for level in outputs.box_maps], dim=2).mT
    matched = assignment.matched_gt
    assert not class_grad[matched == IGNORED].any()
    assert bool((class_grad[matched != IGNORED] != 0).all())
    assert not box_grad[matched < 0].any()
    assert bool((box_grad[matched >= 0] != 0).any(dim=1).all())


def test_half_precision_outputs_give_float32_losses():
    outputs = outputs_of()
    half = HeadOutputs(
        [level.detach().bfloat16() for level in outputs.class_logits],
        [level.detach().bfloat16() for level in outputs.box_maps],
    )
    losses = losses_of(GFL(), half, TRUTH, assignment_of(LOCATIONS))
    assert {value.dtype for value in losses.values()} == {torch.float32}
    expected = plain_losses(half, TRUTH, assignment_of(LOCATIONS).matched_gt, 1e-6)
    assert values(losses) == pytest.approx(expected, rel=2e-5)


def test_number_of_bins_is_an_option():
    method = GFL(num_bins=8)
    assert method.num_box_channels == 32
    boxes, deviation = method.decode(torch.zeros(5, 32), Locations(torch.full((5, 2), 80.0), torch.full((5,), 8.0)))
    assert boxes.tolist() == [[52, 52, 108, 108]] * 5  # 3.5 bins of 8 px to each side
    torch.testing.assert_close(deviation, torch.full((5, 4), math.sqrt((8 * 8 - 1) / 12) * 8))  # of a uniform


def test_an_option_beyond_the_largest_number_of_bins_is_refused():
    assert RANGES["num_bins"] == (2, MAX_BINS)
    for num_bins in (1, MAX_BINS + 1):
        with pytest.raises(InputError, match="num_bins"):
            GFL(num_bins=num_bins)


def test_decoded_box_is_the_mean_of_each_side_and_its_deviation_is_in_pixels():
    box_params = torch.full((1, 4, NUM_BINS), -1e4)
    for side, bins in enumerate([(2,), (0,), (3, 4), (5, 7)]):
        for i in bins:
            box_params[0, side, i] = 0.0
    boxes, deviation = GFL().decode(box_params.flatten(1), Locations(torch.tensor([[100.0, 60]]), torch.tensor([16.0])))
    assert boxes.tolist() == [[100 - 2 * 16, 60, 100 + 3.5 * 16, 60 + 6 * 16]]
    assert deviation.tolist() == [[0, 0, 8, 16]]


def test_no_location_decodes_to_no_box():
    boxes, deviation = GFL().decode(torch.zeros(0, 4 * NUM_BINS), Locations(torch.zeros(0, 2), torch.zeros(0)))
    assert boxes.shape == deviation.shape == (0, 4)


def test_assignment_is_atss_with_the_methods_options():
    truth = truth_of([[8.0, 8, 40, 40]], [0], [1])
    sizes = torch.tensor([[48, 64], [48, 40]])
    found = GFL(top_k=7, anchor_scale=1.0).assign(truth, LATTICE, sizes).matched_gt
    expected = assign_atss(truth, LATTICE, top_k=7, anchor_scale=1.0, image_sizes=sizes).matched_gt
    assert torch.equal(found, expected)
    assert not torch.equal(found, assign_atss(truth, LATTICE, image_sizes=sizes).matched_gt)
    assert {IGNORED, BACKGROUND, 0} == set(found[1].tolist())


def test_gflv2_writes_its_gradient_over_logits_that_no_other_term_reads_afterwards():
    method = GFLv2()
    assignment = assignment_of(LOCATIONS)

    def terms(inplace_grad):
        outputs = scene.outputs_of(method, spread=2.0)
        joint = [joint_logits(c, q) for c, q in zip(outputs.class_logits, outputs.quality_logits, strict=True)]
        positives = find_positives(TRUTH, assignment, method.locations(LATTICE))
        return values(
            method.losses_of_scores(joint, outputs.box_maps, assignment, positives, inplace_grad=inplace_grad)
        )

    assert terms(True) == pytest.approx(terms(False), rel=1e-6)


def test_reach_ends_beyond_the_last_bin_not_at_it():
    truth = truth_of([[0.0, 0, 68, 44]], [0], [0])  # the right side is 48 px, 6 strides, from the centre (20, 20)
    positives = find_positives(truth, assignment_of({(0, 18): 0}), GFL().locations(LATTICE))
    assert GFL(num_bins=7).beyond_reach(positives) == 0
    assert GFL(num_bins=6).beyond_reach(positives) == 1


def test_a_score_of_gflv2_is_the_product_of_class_and_quality():
    outputs = scene.outputs_of(GFLv2(), batch=1)
    (found,) = PostProcess(GFLv2(), LATTICE.strides, score_threshold=0.3, nms_iou=None)(outputs, [(48, 64)])
    maps = zip(outputs.class_logits, outputs.quality_logits, strict=True)
    scores = torch.cat([(c.sigmoid() * q.sigmoid()).flatten() for c, q in maps]).detach()
    expected = scores[scores > 0.3].sort(descending=True).values
    assert len(found) == len(expected) > 5
    torch.testing.assert_close(found.scores, expected)
