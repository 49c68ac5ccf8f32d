"""``--check-shift``: silent on photos like the calibration photos, loud on others; and its error rate."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from calibrated_colours import CALIBRATION
from colours import BOXES, CARD, colour_model
from PIL import Image

from focaldet.checks import InputError
from focaldet.cli import main
from focaldet.records.calibration import Calibration, PhotoSample, parse_calibration
from focaldet.runtime.card import KEY
from focaldet.runtime.model import DetectionArrays
from focaldet.runtime.shift import (
    FALSE_ALARMS,
    MAX_BOXES,
    MIN_PHOTOS,
    ShiftCheck,
    least_scores,
    photo_sample,
    shift_chance,
)

LEAST = least_scores(CALIBRATION.thresholds, CALIBRATION.least_score)


def drawn_photo(
    rng: np.random.Generator, *, better: float = 0.0, wider: float = 0.0, alike: float = 0.8
) -> PhotoSample:
    """A photo with 1 to about 30 boxes of two classes, whose scores and deviations it shares a part of."""
    count = 1 + int(rng.poisson(rng.gamma(1.5, 8)))
    own = rng.normal(size=(2, count)) * math.sqrt(1 - alike) + rng.normal(size=(2, 1)) * math.sqrt(alike)
    labels = rng.integers(1, 3, count)
    scores = 1 / (1 + np.exp(-(own[0] + better + 0.5 * labels)))
    widths = own[1] + wider - labels
    return PhotoSample(tuple(labels.tolist()), tuple(scores.tolist()), tuple(widths.tolist()))


def test_false_alarms_are_as_rare_as_stated_although_boxes_of_a_photo_are_alike() -> None:
    draws, alarms = 500, 0
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        photos = [drawn_photo(rng) for _ in range(40)]
        new = int(rng.integers(MIN_PHOTOS, 20))
        alarms += shift_chance(photos[new:], photos[:new], seed=draw, divisions=99) <= FALSE_ALARMS
    assert alarms <= draws * FALSE_ALARMS + 3 * math.sqrt(draws * FALSE_ALARMS)


@pytest.mark.parametrize("shift", [{"better": -1.0}, {"wider": 1.0}])
def test_lower_scores_and_wider_sides_are_found(shift: dict[str, float]) -> None:
    found = 0
    for draw in range(20):
        rng = np.random.default_rng(draw)
        known = [drawn_photo(rng, alike=0.3) for _ in range(60)]
        new = [drawn_photo(rng, alike=0.3, **shift) for _ in range(20)]
        found += shift_chance(known, new) <= FALSE_ALARMS
    assert found >= 18


def test_another_share_of_the_classes_is_no_shift() -> None:
    rng = np.random.default_rng(0)
    known = [drawn_photo(rng, alike=0.0) for _ in range(60)]
    only = [
        PhotoSample(
            *(
                tuple(value for value, label in zip(part, one.labels, strict=True) if label == 2)
                for part in (one.labels, one.scores, one.widths)
            )
        )
        for one in (drawn_photo(rng, alike=0.0) for _ in range(40))
    ]
    assert shift_chance(known, only) > FALSE_ALARMS


def test_photos_without_boxes_are_compared_too() -> None:
    nothing = PhotoSample((), (), ())
    assert shift_chance([nothing] * 20, [nothing] * 5) == 1
    rng = np.random.default_rng(0)
    assert shift_chance([drawn_photo(rng) for _ in range(20)], [nothing] * 5) <= FALSE_ALARMS


def test_sample_has_boxes_from_the_least_score_on_spread_over_the_scores() -> None:
    scores = np.linspace(0.9, 0.01, 200)
    one = photo_sample(scores, np.ones(200, int), np.tile([0, 0, 4, 9], (200, 1)), np.full((200, 4), 3.0), LEAST)
    assert len(one.scores) == MAX_BOXES
    assert one.scores[0] == 0.9
    assert LEAST[1] <= one.scores[-1] < LEAST[1] + 0.01
    assert one.widths == (round(math.log(3 / 6), 2),) * MAX_BOXES
    assert photo_sample(scores, np.ones(200, int), np.zeros((200, 4)), None, LEAST).widths == ()


def colour_sample(blue: float) -> PhotoSample:
    """What the model of colours finds in a photo: green at 0.8 and blue at such a score."""
    boxes = np.array([BOXES[1], BOXES[2]]) * [80, 60, 80, 60]
    return photo_sample([0.8, blue], [1, 2], boxes, boxes / 10, LEAST)


def colours_file(tmp_path: Path, calibration: Calibration) -> Path:
    file = tmp_path / "colours.onnx"
    file.write_bytes(colour_model({KEY: replace(CARD, calibration=calibration.for_export()).to_json()}))
    return file


@pytest.fixture
def said(tmp_path: Path, photo: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command with the sample of some calibration on several copies of the photo; gives what it printed."""

    def call(sample: tuple[PhotoSample, ...], *options: str, copies: int = 6, code: int = 0) -> str:
        file = colours_file(tmp_path, replace(CALIBRATION, sample=sample))
        folder = tmp_path / "photos"
        folder.mkdir(exist_ok=True)
        for number in range(copies):
            with Image.open(photo) as opened:
                opened.save(folder / f"{number}.png")
        out = str(tmp_path / "out")
        assert main(["predict", str(file), str(folder), "--out", out, "--check-shift", *options]) == code
        captured = capfd.readouterr()
        return captured.err if code else captured.out

    return call


def test_command_is_silent_on_photos_like_those_of_the_calibration(said) -> None:
    assert said((colour_sample(0.4),) * 30).count("\n") == 1


def test_command_warns_in_one_line_of_photos_with_other_scores(said) -> None:
    out = said((colour_sample(0.9),) * 30)
    assert out.count("\n") == 2
    assert out.startswith("these photos do not resemble the calibration photos (p = ")
    assert "do not rely on scores, promised thresholds and bands" in out


def test_command_does_not_look_only_at_boxes_that_are_shown(said) -> None:
    assert "do not resemble" in said((colour_sample(0.9),) * 30, "--score", "precision=0.9")


def test_few_photos_give_no_answer_and_say_so(said) -> None:
    assert f"needs at least {MIN_PHOTOS} photos" in said((colour_sample(0.9),) * 30, copies=MIN_PHOTOS - 1)


def test_calibration_without_a_sample_and_other_options_are_refused(said) -> None:
    assert "because an earlier focaldet made it" in said((), code=2)
    assert "has no calibration" in said((), "--no-calibrated", code=2)
    assert "cannot be combined" in said((), "--max-detections", "5", code=2)


def test_frames_of_a_video_count_as_one_photo() -> None:
    check = ShiftCheck(replace(CALIBRATION, sample=(colour_sample(0.4),) * 30))
    found = DetectionArrays(
        np.zeros((1, 4), np.float32), np.array([0.9], np.float32), np.array([2]), np.ones((1, 4), np.float32)
    )
    for _ in range(100):
        check.add(Path("video.mp4"), found)
    assert "needs at least" in (check.line() or "")


def test_sample_of_a_file_is_checked() -> None:
    content = replace(CALIBRATION, sample=(colour_sample(0.4),)).for_export()
    for wrong in ({"labels": [1]}, {"labels": [1, 7]}, {"widths": [0.1]}, {"scores": [0.1, "high"]}):
        broken = content | {"sample": [content["sample"][0] | wrong]}
        with pytest.raises(InputError, match="sample"):
            parse_calibration(broken)
