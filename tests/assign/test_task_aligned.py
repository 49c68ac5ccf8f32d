import numpy as np
import pytest
import torch
from scenes import lattice_of, random_boxes, random_size, truth_of
from textbook import task_aligned

from focaldet.assign.task_aligned import aligned_targets, choose_positives, list_candidates
from focaldet.boxes.iou import paired_iou
from focaldet.structures import BACKGROUND, IGNORED


def predictions(rng, truth, num_locations):
    """Scores and IoUs ``(B, P, G)``, float32, with ties among them."""
    shape = (truth.num_images, num_locations, truth.labels.numel())
    alignment, overlap = rng.uniform(1e-3, 1, shape), rng.uniform(1e-3, 1, shape)
    tied = rng.random(shape) < 0.3
    alignment[tied], overlap[tied] = np.ceil(4 * alignment[tied]) / 4, np.ceil(4 * overlap[tied]) / 4
    return alignment.astype(np.float32), overlap.astype(np.float32)


def assign(truth, lattice, alignment, overlap, k, image_sizes=None):
    """Object and soft target of each location ``(B, P)``."""
    found = list_candidates(truth, lattice, image_sizes=image_sizes)
    value, iou = (torch.from_numpy(x)[found.image, found.location, found.gt] for x in (alignment, overlap))
    chosen = choose_positives(found, value, iou, k)
    matched, targets = found.unmatched.matched_gt.clone(), torch.zeros(alignment.shape[:2])
    place = found.image[chosen], found.location[chosen]
    assert (matched[place] == BACKGROUND).all()
    matched[place] = found.gt[chosen]
    targets[place] = aligned_targets(value[chosen], iou[chosen], found.gt[chosen])
    return matched, targets


@pytest.mark.parametrize("seed", range(24))
def test_assignment_is_the_textbooks_on_random_batches(seed):
    rng = np.random.default_rng(seed)
    height, width = random_size(rng, 32, 300)
    lattice = lattice_of(height, width, offset=(0.0, 0.5)[seed % 2])
    counts = [int(n) for n in rng.choice([0, 1, 3, 20], 3)]
    truth = truth_of(*(random_boxes(rng, count, height, width) for count in counts))
    alignment, overlap = predictions(rng, truth, lattice.num_locations)
    matched, targets = assign(truth, lattice, alignment, overlap, k=13)
    for image, first in enumerate(np.cumsum([0, *counts[:-1]])):
        own = slice(first, first + counts[image])
        expected, expected_targets = task_aligned(
            alignment[image, :, own],
            overlap[image, :, own],
            truth.boxes_xyxy[own].numpy(),
            lattice.level_shapes,
            lattice.strides,
            offset=lattice.offset,
        )
        expected = np.where(expected >= 0, expected + first, expected)
        assert matched[image].tolist() == expected.tolist()
        np.testing.assert_allclose(targets[image], expected_targets, rtol=1e-6)


def test_each_object_may_have_its_own_number_of_positives():
    rng = np.random.default_rng(0)
    lattice, truth = lattice_of(128, 128), truth_of([[0, 0, 60, 60], [64, 64, 128, 128]])
    alignment, overlap = predictions(rng, truth, lattice.num_locations)
    candidates = list_candidates(truth, lattice)
    matched, _ = assign(truth, lattice, alignment, overlap, k=torch.tensor([1, 4])[candidates.gt])
    assert [(matched == g).sum() for g in (0, 1)] == [1, 4]


def test_padding_and_ignore_regions_are_no_background_and_padding_has_no_candidate():
    lattice = lattice_of(64, 64, (8,))
    truth = truth_of([[0, 0, 64, 64]], ignored=[[0, 0, 16, 16]], ignored_image=[0])
    sizes = torch.tensor([[64, 32]])
    found = list_candidates(truth, lattice, image_sizes=sizes)
    assert found.location.remainder(8).max() == 3
    assert found.location.numel() == 32
    unmatched = found.unmatched.matched_gt.view(8, 8)
    assert (unmatched[:, 4:] == IGNORED).all()
    assert (unmatched[:2, :2] == IGNORED).all()
    assert (unmatched == BACKGROUND).sum() == 32 - 4


def test_a_batch_without_objects_has_no_candidate():
    found = list_candidates(truth_of([], []), lattice_of(64, 64))
    assert found.gt.numel() == found.location.numel() == 0
    empty = torch.zeros(0)
    assert choose_positives(found, empty, empty, 13).numel() == 0
    assert aligned_targets(empty, empty, found.gt).numel() == 0


def test_an_alignment_of_zero_gives_a_target_of_zero():
    targets = aligned_targets(torch.zeros(2), torch.tensor([0.5, 0.7]), torch.tensor([0, 0]))
    assert targets.tolist() == [0, 0]


@pytest.mark.slow
def test_time_and_memory_grow_with_the_candidates_alone():
    """10,000 objects on a photo of 1333 x 800: a matrix of all pairs would have 2 x 10^8 entries."""
    lattice = lattice_of(800, 1333)
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 1, (10_000, 2)) * (1280, 750)
    truth = truth_of(np.concatenate([corner, corner + rng.uniform(8, 40, (10_000, 2))], axis=1))
    found = list_candidates(truth, lattice)
    assert 10_000 < found.gt.numel() < 200_000
    boxes = truth.boxes_xyxy[found.gt]
    iou = paired_iou(boxes + 1, boxes)
    assert choose_positives(found, iou, iou, 13).sum() > 1000
