"""The valuable region, against the paper's algorithm in float64, every location and every object."""

import numpy as np
import pytest
import torch
from scenes import lattice_of, random_boxes, random_size, truth_of
from textbook import locations_and_anchors

from focaldet.assign.atss import assign_atss, atss_thresholds
from focaldet.assign.valuable import assign_valuable
from focaldet.structures import BACKGROUND


def diou(anchors, box):
    anchors, box = anchors.astype(np.float64), box.astype(np.float64)
    sides = np.minimum(anchors[:, 2:], box[2:]) - np.maximum(anchors[:, :2], box[:2])
    common = sides.clip(0).prod(axis=1)
    union = (anchors[:, 2:] - anchors[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod() - common
    hull = np.maximum(anchors[:, 2:], box[2:]) - np.minimum(anchors[:, :2], box[:2])
    centers = (anchors[:, :2] + anchors[:, 2:] - box[:2] - box[2:]) / 2
    return common / union - (centers**2).sum(axis=1) / (hull**2).sum(axis=1)


@pytest.mark.parametrize("seed", range(12))
def test_the_region_is_the_papers_on_random_batches(seed):
    rng = np.random.default_rng(seed)
    height, width = random_size(rng, 48, 400)
    lattice = lattice_of(height, width, offset=(0.0, 0.5)[seed % 2])
    truth = truth_of(*(random_boxes(rng, int(n), height, width) for n in rng.choice([0, 1, 3, 12], 3)))
    positives = assign_atss(truth, lattice)
    found = assign_valuable(truth, lattice, positives).matched_gt
    thresholds = atss_thresholds(truth, lattice).numpy()
    _, anchors, _ = locations_and_anchors(lattice.level_shapes, lattice.strides, lattice.offset, 8.0)
    compared = 0
    for image in range(truth.num_images):
        own = (truth.image_index == image).nonzero()[:, 0].numpy()
        value = np.stack([diou(anchors, truth.boxes_xyxy[g].numpy()) for g in own]) if len(own) else np.zeros((0, 1))
        if not len(own):
            assert (found[image] == BACKGROUND).all()
            continue
        bounds = np.stack([0.25 * thresholds[own], thresholds[own]])[..., None]
        in_region = (value >= bounds[0]) & (value < bounds[1])
        claims = np.where(in_region, value, -9.0)
        expected = np.where(in_region.any(axis=0), own[claims.argmax(axis=0)], BACKGROUND)
        expected[positives.matched_gt[image].numpy() != BACKGROUND] = BACKGROUND
        two = np.sort(claims, axis=0)[-2:]  # ties are decided by the last bits
        clear = (np.abs(value - bounds) > 1e-5).all(axis=(0, 1))
        clear &= (len(own) == 1) | (two[-1] - two[0] > 1e-5) | ~in_region.any(axis=0)
        assert found[image].numpy()[clear].tolist() == expected[clear].tolist()
        compared += int((expected[clear] >= 0).sum())
    assert compared or not truth.labels.numel()


def test_padding_has_no_region_and_changes_none():
    truth = truth_of([[10, 10, 60, 50]])
    alone, padded = lattice_of(64, 64), lattice_of(128, 128)
    sizes = torch.tensor([[64, 64]])
    small = assign_valuable(truth, alone, assign_atss(truth, alone)).matched_gt
    large = assign_valuable(truth, padded, assign_atss(truth, padded, image_sizes=sizes), image_sizes=sizes).matched_gt
    assert (small >= 0).sum() == (large >= 0).sum() > 20
    assert torch.equal(large[padded.inside(sizes)], small[0])
