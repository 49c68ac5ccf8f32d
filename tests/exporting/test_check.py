"""An export that differs from its run is rejected, whatever differs; an equal one is accepted."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from random_runs import TORCHVISION, random_detector

from focaldet.checks import InputError
from focaldet.engine.detector import Detector
from focaldet.exporting.check import MAX_BOX_DIFFERENCE_PX, Reader, check, check_images, check_photos
from focaldet.files import write_json
from focaldet.runtime.windows import Tiling
from focaldet.structures import Detections

Change = Callable[[Detections], Detections]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return random_detector("gfl")


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    chance = np.random.default_rng(0)
    return [np.kron(chance.integers(256, size=(18, 24, 3)), np.ones((8, 8, 1))).astype(np.uint8)]


def reader_of(detector: Detector, change: Change = lambda found: found) -> Reader:
    """The run itself, whose detections are changed."""

    def read(images: np.ndarray) -> Detections:
        with torch.no_grad():
            outputs = detector.net(torch.tensor(images).permute(0, 3, 1, 2).contiguous())
        (found,) = detector.postprocess(outputs, [images.shape[1:3]])
        return change(found)

    return read


def test_the_run_agrees_with_itself(detector: Detector, images: list[np.ndarray]) -> None:
    agreement = check(reader_of(detector), detector, images)
    assert agreement.boxes > 10
    assert (agreement.px, agreement.score) == (0, 0)
    assert str(agreement) == (
        f"compared with the run: {agreement.boxes} boxes in 1 photos of 192 x 144 px, within 0 px and 0 in score"
    )


def test_boxes_that_the_image_cuts_to_one_or_to_nothing_are_no_difference(images: list[np.ndarray]) -> None:
    detector = random_detector("retinanet", **TORCHVISION)
    with torch.no_grad():
        detector.net.head.box_outputs.weight.mul_(20)
    images = [image.astype(np.float32) for image in images]
    found = reader_of(detector)(images[0][None])
    sides = found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]
    assert bool((sides == 0).any())
    assert check(reader_of(detector), detector, images).boxes == len(found)


def moved(found: Detections, by: float = 0.06) -> Detections:
    boxes = found.boxes_xyxy.clone()
    boxes[3, 2] += by
    return replace(found, boxes_xyxy=boxes)


def surer(found: Detections) -> Detections:
    scores = found.scores.clone()
    scores[0] += 0.002
    return replace(found, scores=scores)


def less_wide(found: Detections) -> Detections:
    deviations = found.side_std_px.clone()
    deviations[-1, 0] += 0.1
    return replace(found, side_std_px=deviations)


def of_another_class(found: Detections) -> Detections:
    return replace(found, labels=(found.labels + 1) % 3)


def without_the_best(found: Detections) -> Detections:
    return found[torch.arange(1, len(found))]


def twice_the_best(found: Detections) -> Detections:
    return found[torch.cat([torch.zeros(1, dtype=torch.int64), torch.arange(len(found))])]


def without_any(found: Detections) -> Detections:
    return found[torch.arange(0)]


def of_no_number(found: Detections) -> Detections:
    return replace(found, boxes_xyxy=found.boxes_xyxy * torch.nan)


def without_score(found: Detections) -> Detections:
    return replace(found, scores=found.scores * torch.nan)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (moved, "boxes by 0.06 px"),
        (surer, "scores by 0.002"),
        (less_wide, "boxes by 0.1 px"),
        (of_another_class, "boxes by"),
        (of_no_number, "boxes by"),
        (without_score, "boxes by"),
        (without_the_best, "boxes are missing"),
        (without_any, "boxes are missing"),
        (twice_the_best, "it keeps a box that NMS should drop"),
    ],
)
def test_whatever_differs_is_refused(detector: Detector, images: list[np.ndarray], change: Change, fault: str) -> None:
    with pytest.raises(InputError, match=r"^the exported network differs from the run: ") as error:
        check(reader_of(detector, change), detector, images)
    assert fault in str(error.value)
    assert "nothing was written" in str(error.value)


def test_a_difference_below_what_is_allowed_is_told(detector: Detector, images: list[np.ndarray]) -> None:
    agreement = check(reader_of(detector, lambda found: moved(found, 0.02)), detector, images)
    assert 0.01 < agreement.px < MAX_BOX_DIFFERENCE_PX
    assert "within 0.02 px and 0 in score" in str(agreement)


def test_a_file_that_cannot_be_run_at_a_size_is_refused(detector: Detector, images: list[np.ndarray]) -> None:
    def read(images: np.ndarray) -> Detections:
        raise RuntimeError("size 72 is\nnot 64")

    with pytest.raises(
        InputError, match=r"differs from the run: it cannot be run on 192 x 144 px \(size 72 is not 64\)"
    ):
        check(read, detector, images)


def test_boxes_at_the_threshold_and_at_the_last_place_are_no_difference(images: list[np.ndarray]) -> None:
    """Differences that rounding may cause: a slightly changed threshold and number of candidates."""
    detector = random_detector("gfl")
    scores = reader_of(detector)(images[0][None]).scores
    strict = Detector(detector.spec, detector.net, detector.method, score_threshold=float(scores[-1]))
    slack = Detector(detector.spec, detector.net, detector.method, score_threshold=float(scores[-1]) - 1e-6)
    assert len(reader_of(slack)(images[0][None])) == len(reader_of(strict)(images[0][None])) + 1
    check(reader_of(slack), strict, images)
    check(reader_of(strict), slack, images)


def test_photos_are_those_that_the_run_was_measured_on(tmp_path: Path, cells: Path) -> None:
    files = sorted((cells / "JPEGImages").iterdir())
    (tmp_path / "text.jpg").write_text("no photo")
    names = [tmp_path / "gone.jpg", tmp_path / "text.jpg", *files]
    write_json(tmp_path / "truth.json", {"images": [{"file_name": str(name)} for name in names]})
    detector = random_detector("gfl")
    photos = check_photos(tmp_path, detector)
    assert len(photos) == 4
    assert json.loads((tmp_path / "truth.json").read_text())["images"]
    assert {photo.shape for photo in photos} == {(480, 640, 3)}
    detector.tiling = Tiling(tile=64, overlap=16, size=64)
    for window, photo in zip(check_photos(tmp_path, detector), photos, strict=True):
        np.testing.assert_array_equal(window, photo[208:272, 288:352])


@pytest.mark.slow  # imports scikit-learn
def test_without_photos_at_hand_others_are_taken(tmp_path: Path) -> None:
    assert [photo.shape for photo in check_photos(tmp_path, random_detector("gfl"))] == [(427, 640, 3), (427, 640, 3)]
    write_json(tmp_path / "truth.json", {"images": [{"file_name": str(tmp_path / "gone.jpg")}]})
    assert len(check_photos(tmp_path, random_detector("gfl"))) == 2


def test_images_have_three_sizes_and_lie_both_ways(detector: Detector) -> None:
    photos = [np.zeros((48, 64, 3), np.uint8), np.zeros((60, 30, 3), np.uint8)]
    sizes = [image.shape[:2] for image in check_images(photos, detector)]
    assert sizes == [(75, 100), (100, 50), (80, 60), (40, 80), (45, 60)]
