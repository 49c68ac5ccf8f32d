"""Suppression without torch keeps the same boxes as torchvision."""

import numpy as np
import pytest
import torch
from torchvision import ops as torchvision_ops

from focaldet.runtime.nms import batched_nms


@pytest.mark.parametrize("iou", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("count", [0, 1, 2, 400])
def test_the_choice_is_torchvisions(count: int, iou: float) -> None:
    chance = np.random.default_rng(count)
    corners = chance.uniform(0, 60, (count, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + chance.uniform(0, 30, (count, 2)).astype(np.float32)], axis=1)
    scores, labels = chance.uniform(0, 1, count).astype(np.float32), chance.integers(3, size=count)
    scores[::7] = scores[:1]  # ties
    tensors = (torch.from_numpy(each) for each in (boxes, scores, labels))
    expected = torchvision_ops.batched_nms(*tensors, iou).numpy()
    for most in (1, 10, 1000):
        kept = batched_nms(boxes, scores, labels, iou, most)
        assert len(kept) == min(len(expected), most)
        assert set(kept) <= set(expected)
        assert np.array_equal(scores[kept], scores[expected[:most]])


def test_of_equal_scores_the_first_stays() -> None:
    boxes = np.tile(np.array([[0, 0, 10, 10]], np.float32), (4, 1))
    scores, labels = np.full(4, 0.5, np.float32), np.array([1, 0, 1, 0])
    assert batched_nms(boxes, scores, labels, 0.6, 10).tolist() == [0, 1]


def test_boxes_without_area_suppress_nothing() -> None:
    boxes = np.array([[5, 5, 5, 9], [5, 5, 5, 9], [0, 0, 10, 10]], np.float32)
    scores, labels = np.array([0.9, 0.8, 0.7], np.float32), np.zeros(3, np.int64)
    with np.errstate(all="raise"):
        assert batched_nms(boxes, scores, labels, 0.5, 10).tolist() == [0, 1, 2]


@pytest.mark.parametrize("iou", [0.0, 0.05, 0.6, 1.0])
@pytest.mark.parametrize("spread", [0.2, 1.0, 2.0])  # from boxes of one size to those that cover all the others
def test_in_a_crowd_the_choice_is_torchvisions(iou: float, spread: float) -> None:
    chance = np.random.default_rng(int(10 * spread))
    corners = chance.uniform(-500, 2500, (4000, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + 15 * np.exp(spread * chance.normal(size=(4000, 2)))], axis=1, dtype="f4")
    scores, labels = chance.permutation(4000).astype(np.float32) / 4000, chance.integers(2, size=4000)
    kept = batched_nms(boxes, scores, labels, iou, 4000)
    expected = [
        rows[torchvision_ops.nms(torch.from_numpy(boxes[rows]), torch.from_numpy(scores[rows]), iou).numpy()]
        for rows in (np.flatnonzero(labels == label) for label in range(2))
    ]
    assert np.array_equal(np.sort(kept), np.sort(np.concatenate(expected)))
    assert (np.diff(scores[kept]) < 0).all()
    assert np.array_equal(batched_nms(boxes, scores, labels, iou, 50), kept[:50])


def test_boxes_that_are_not_numbers_suppress_nothing() -> None:
    boxes = np.array([[0, 0, np.inf, 10], [0, 0, np.nan, 10], [0, 0, 10, 10], [0, 0, 10, 10]], np.float32)
    scores, labels = np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.zeros(4, np.int64)
    assert batched_nms(boxes, scores, labels, 0.5, 10).tolist() == [0, 1, 2]


def test_the_same_box_many_times_takes_little_memory() -> None:
    boxes = np.tile(np.array([[0, 0, 10, 10]], np.float32), (20_000, 1))
    assert batched_nms(boxes, np.linspace(0, 1, 20_000, dtype="f4"), np.zeros(20_000, np.int64), 0.6, 10).tolist() == [
        19_999
    ]
