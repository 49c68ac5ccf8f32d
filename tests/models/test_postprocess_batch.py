"""A batch is read as a whole: its detections equal those of single images, and the number of reads does not grow."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from counting import counted

from focaldet.engine.spec import METHODS
from focaldet.models import postprocess as module
from focaldet.models.postprocess import PostProcess, _best_of_groups
from focaldet.structures import HeadOutputs

STRIDES = (8, 16, 32)
SHAPES = ((12, 16), (6, 8), (3, 4))
SIZES = [(96, 128), (61, 100), (96, 40), (90, 128)]


def outputs_of(name: str, batch: int, *, dtype: torch.dtype = torch.float32) -> tuple[PostProcess, HeadOutputs]:
    method, generator = METHODS[name](), torch.Generator().manual_seed(len(name))

    def maps(channels: int, shift: float) -> list[torch.Tensor]:
        count = method.anchors_per_location * channels
        # few different values: many scores are equal
        return [
            ((torch.randn(batch, count, *shape, generator=generator) * 6).round() / 2 + shift).to(dtype)
            for shape in SHAPES
        ]

    quality = None if method.quality_branch == "none" else maps(1, 0.0)
    outputs = HeadOutputs(maps(3, -4.0), maps(method.num_box_channels, 0.5), quality)
    return PostProcess(method, STRIDES, topk_candidates=25, max_detections=40, keep_empty=True), outputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", METHODS)
def test_detections_of_a_batch_are_those_of_its_images_alone(name: str, dtype: torch.dtype) -> None:
    postprocess, outputs = outputs_of(name, len(SIZES), dtype=dtype)
    found = postprocess(outputs, SIZES)
    locations = postprocess.locations(outputs)
    assert sum(map(len, found)) > 40
    for image, size in enumerate(SIZES):
        candidates = postprocess.candidates(outputs, image, size, locations)
        kept = postprocess.nms(candidates.boxes_xyxy, candidates.scores, candidates.labels)
        assert torch.equal(found[image].labels, candidates.labels[kept])
        assert torch.equal(found[image].scores, candidates.scores[kept])
        torch.testing.assert_close(found[image].boxes_xyxy, candidates.boxes_xyxy[kept], rtol=0, atol=1e-4)
        level = torch.bucketize(candidates.location, _ends(postprocess), right=True)
        assert int(torch.bincount(level).max()) == 25  # as many as a level may have


def _ends(postprocess: PostProcess) -> torch.Tensor:
    anchors = postprocess.method.anchors_per_location
    return torch.tensor([height * width * anchors for height, width in SHAPES]).cumsum(0)


@pytest.mark.parametrize("name", METHODS)
def test_looks_at_values_do_not_grow_with_the_batch_until_the_boxes_are_in_the_host_s_memory(name: str) -> None:
    looks = []
    for batch in (1, 4):
        postprocess, outputs = outputs_of(name, batch)
        with counted() as operators:
            postprocess._of_batch(outputs, SIZES[:batch], postprocess.locations(outputs))
        looks.append(operators.looks)
    assert looks[0] == looks[1]
    assert len(looks[0]) <= 6


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("threshold", "odd"), [(0.0, 0.0), (0.01, math.inf), (0.5, 0.0), (0.01, math.nan)])
def test_leaving_the_worst_early_changes_nothing(
    name: str, threshold: float, odd: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With equal scores at the limit, and with values that are no numbers."""
    postprocess, outputs = outputs_of(name, len(SIZES))
    postprocess.config = replace(postprocess.config, score_threshold=threshold)
    outputs.class_logits[0][0, 0, 2, 3:9] = odd
    locations = postprocess.locations(outputs)
    found, image = postprocess._of_batch(outputs, SIZES, locations)
    monkeypatch.setattr(module, "leave_the_worst", lambda best, logits, place, most: (*place[:2], None))
    monkeypatch.setattr(module, "near_the_best", lambda values, group, most: None)
    expected, expected_image = postprocess._of_batch(outputs, SIZES, locations)
    assert len(found.scores) > 50
    assert torch.equal(image, expected_image)
    for part in ("boxes_xyxy", "scores", "labels", "location", "box_params"):
        assert torch.equal(getattr(found, part), getattr(expected, part))


@pytest.mark.parametrize("most", range(1, 8))
def test_the_best_of_a_group_are_right_for_numbers_of_either_sign_and_zeros(most: int) -> None:
    values = torch.tensor([0.0, -1.0, 2.0, -0.0, 1.0, -torch.inf, -3.0])
    best_first = [2, 4, 0, 3, 1, 6, 5]  # 0 equals -0, so the first of them is the better
    kept = _best_of_groups(values, torch.zeros(7, dtype=torch.int64), most)
    assert kept.tolist() == sorted(best_first[:most])
