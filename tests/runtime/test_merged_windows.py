"""Windows merged on the photo: objects across seams, objects larger than a window, any start of the grid."""

from dataclasses import replace
from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from seen_colours import SeenColours, apart, painted

from focaldet.checks import InputError
from focaldet.photos.regions import open_regions, regions_of
from focaldet.photos.tiling import Window
from focaldet.runtime.model import DetectionArrays
from focaldet.runtime.window_stream import look, look_at
from focaldet.runtime.windows import PhotoMerge, Tiling, merged, tiling_for

SIZE = (301, 203)
TILING = Tiling(tile=64, overlap=28, size=64)


def in_order(boxes: np.ndarray) -> list[list[int]]:
    return sorted(boxes.tolist())


@pytest.mark.parametrize("seed", range(3))
def test_objects_that_fit_a_window_are_found_once_wherever_the_grid_begins(seed: int) -> None:
    """Exactly: the tolerance that remains with a network is the network's own."""
    truth = apart(SIZE, 60, 24, seed)
    photo, found = painted(SIZE, truth), []
    for shift in (0, 1, 2, 5, 17, 31, 32, 47, 63):
        found.append(look_at(SeenColours(64), photo, replace(TILING, offset=(shift, 3 * shift % 64))))
        assert in_order(found[-1].boxes_xyxy) == in_order(truth)
    assert all(np.array_equal(one.scores, found[0].scores) for one in found)


@pytest.mark.parametrize("shift", [1, 13, 32, 63])
def test_a_photo_that_is_shifted_gives_the_same_boxes_shifted(shift: int) -> None:
    truth = apart(SIZE, 60, 24)
    wide = np.pad(painted(SIZE, truth), ((shift, 0), (shift, 0), (0, 0)), constant_values=114)
    found = look_at(SeenColours(64), wide, TILING)
    assert in_order(found.boxes_xyxy - shift) == in_order(truth)


def test_labels_scores_and_deviations_stay_with_their_boxes() -> None:
    truth = apart(SIZE, 60, 24)
    found = look_at(SeenColours(64), painted(SIZE, truth), TILING)
    place = {tuple(box): number for number, box in enumerate(truth.tolist())}
    for box, score, label, deviation in zip(
        found.boxes_xyxy.tolist(), found.scores, found.labels, found.side_std_px, strict=True
    ):
        number = place[tuple(map(int, box))]
        assert label == number % 2
        assert score == pytest.approx((55 + number % 200) / 255)
        assert deviation.tolist() == [score] * 4
    assert (np.diff(found.scores) <= 0).all()


@pytest.mark.parametrize("shift", [0, 11, 37])
def test_an_object_larger_than_a_window_is_found_on_the_whole_photo_and_its_parts_are_not(shift: int) -> None:
    truth = np.array([[30, 40, 200, 180], [210, 10, 226, 30]])
    found = look_at(SeenColours(64), painted(SIZE, truth), replace(TILING, offset=(shift, shift)))
    assert len(found) == 2
    by_size = found.boxes_xyxy[np.argsort(-np.prod(found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2], axis=1))]
    assert np.abs(by_size[0] - truth[0]).max() <= SIZE[0] / 64  # a pixel of what the network sees
    assert by_size[1].tolist() == truth[1].tolist()


def test_what_a_window_holds_is_not_taken_from_the_whole_photo() -> None:
    """There it looks like something else: smaller, and of few pixels."""
    whole = Window(0, 0, 300, 200)
    for box, stays in (([10, 10, 50, 50], False), ([66, 10, 110, 50], True), ([240, 0, 300, 60], False)):
        found = merge({whole: arrays([box], [0.9])}, (300, 200))
        assert len(found) == stays


def test_a_part_that_no_window_and_no_whole_photo_explains_stays() -> None:
    part = arrays([[40, 0, 64, 20]], [0.9])
    assert len(merge({Window(0, 0, 64, 64): part})) == 1


def test_a_part_yields_to_a_surer_and_to_a_less_sure_whole_box() -> None:
    for score in (0.2, 0.95):
        found = merge(
            {
                Window(0, 0, 64, 64): arrays([[50, 10, 64, 30]], [0.9]),
                Window(36, 0, 64, 64): arrays([[14, 10, 40, 30]], [score]),
            }
        )
        assert found.boxes_xyxy.tolist() == [[50, 10, 76, 30]]
        assert found.scores.tolist() == pytest.approx([score])


def test_a_neighbour_in_a_crowd_is_no_part_of_the_box_beside_it() -> None:
    """It touches the border too, but the window saw another stretch of the whole box."""
    found = merge(
        {
            Window(0, 0, 64, 64): arrays([[56, 10, 64, 30]], [0.9]),
            Window(36, 0, 64, 64): arrays([[6, 10, 40, 30]], [0.8]),
        }
    )
    assert len(found) == 2


def test_the_photos_own_border_cuts_nothing() -> None:
    found = merge({Window(0, 0, 64, 64): arrays([[0, 0, 20, 20]], [0.9]), Window(36, 0, 64, 64): arrays([], [])})
    assert len(found) == 1


def test_another_class_neither_yields_nor_suppresses() -> None:
    found = merge(
        {
            Window(0, 0, 64, 64): arrays([[50, 10, 64, 30]], [0.9]),
            Window(36, 0, 64, 64): arrays([[14, 10, 40, 30]], [0.9], label=1),
        }
    )
    assert len(found) == 2


def test_the_order_in_which_windows_come_changes_nothing() -> None:
    truth = apart((128, 64), 20, 24)
    model, photo = SeenColours(64), regions_of(painted((128, 64), truth))
    windows = TILING.views(photo.size)
    parts = {w: model.detect([model.prepare(photo.read(*w))])[0] for w in windows[1:]}
    results = [merge({w: parts[w] for w in order}, (128, 64)) for order in permutations(parts)]
    for result in results:
        assert np.array_equal(result.boxes_xyxy, results[0].boxes_xyxy)
        assert np.array_equal(result.scores, results[0].scores)


def test_calibrated_scores_order_the_result_and_raw_ones_decide() -> None:
    one = arrays([[0, 0, 20, 20], [0, 0, 20, 19], [40, 30, 50, 40]], [0.5, 0.5, 0.6])
    raw = replace(one, raw_scores=np.array([0.3, 0.9, 0.2], np.float32))
    found = merge({Window(0, 0, 64, 64): raw})
    assert found.boxes_xyxy.tolist() == [[40, 30, 50, 40], [0, 0, 20, 19]]
    assert found.raw_scores is not None
    assert found.raw_scores.tolist() == pytest.approx([0.2, 0.9])


def test_the_limit_is_that_of_the_photo() -> None:
    photo = painted(SIZE, apart(SIZE, 60, 24))
    every = look_at(SeenColours(64), photo, TILING)
    best = look_at(SeenColours(64), photo, replace(TILING, max_detections=7))
    assert np.array_equal(best.boxes_xyxy, every.boxes_xyxy[:7])


def test_a_photo_smaller_than_a_window_is_seen_at_its_own_scale_and_once() -> None:
    model = SeenColours(64)
    found = look_at(model, painted((40, 20), np.array([[10, 5, 20, 15]])), TILING)
    assert found.boxes_xyxy.tolist() == [[10, 5, 20, 15]]
    assert model.batches == [1]


def test_one_stream_gives_what_each_photo_gives_in_their_order(tmp_path: Path) -> None:
    sizes = [(40, 20), (301, 203), (64, 64), (65, 64), (200, 90), (30, 30), (64, 200)] * 3
    files = []
    for number, size in enumerate(sizes):
        photo = painted(size, apart(size, 3, 20, number))
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(photo).save(files[-1])
    files.insert(4, tmp_path / "missing.png")
    model, done = SeenColours(64), []
    stream = look(model, [partial(open_regions, f) for f in files], TILING, progress=lambda *now: done.append(now))
    for file, looked in zip(files, stream, strict=True):
        if file.name == "missing.png":
            assert looked.photo is None
            assert "missing.png: no such image file" in str(looked.fault)
            continue
        alone = look_at(SeenColours(64), regions_of(file), TILING)
        assert looked.found is not None
        assert np.array_equal(looked.found.boxes_xyxy, alone.boxes_xyxy)
    assert done[-1][0] == done[-1][1] == sum(len(TILING.views(size)) for size in sizes)
    assert max(model.batches) == 8
    assert sum(model.batches) == done[-1][0]
    assert len(model.batches) < 0.4 * sum(model.batches)  # batches hold windows of several photos


def arrays(boxes: list, scores: list, label: int = 0) -> DetectionArrays:
    return DetectionArrays(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.full(len(scores), label, np.int64),
        None,
    )


def merge(parts: dict[Window, DetectionArrays], size: tuple[int, int] = (100, 64)) -> DetectionArrays:
    photo = PhotoMerge(TILING, size)
    for window, found in parts.items():
        photo.add(window, found)
    return photo.result()


def test_merging_20000_boxes_takes_no_pass_over_all_pairs() -> None:
    """All pairs of as many boxes are 400 million, of 16 bytes each."""
    chance = np.random.default_rng(0)
    corners = chance.uniform(0, 4000, (20_000, 2))
    boxes = np.concatenate([corners, corners + chance.uniform(15, 40, (20_000, 2))], axis=1).astype(np.float32)
    found = DetectionArrays(boxes, chance.uniform(0, 1, 20_000).astype(np.float32), chance.integers(0, 3, 20_000), None)
    left = (boxes[:, :2] // 480).clip(0, 7) * 480
    windows = np.concatenate([left, left + 640], axis=1).astype(np.float32)
    kept = merged(found, windows, (4000, 4000), Tiling(tile=640, overlap=160, size=640))
    assert 10_000 < len(kept) < 20_000


MODEL = {"trained_tile": 640, "largest_px": 100, "size": 640, "nms_iou": 0.6}


@pytest.mark.parametrize(
    ("tile", "overlap", "expected"),
    [
        (None, None, (640, 121)),  # the largest objects, and what is near the borders
        (None, 0.25, (640, 160)),
        (None, 64.0, (640, 64)),
        (320, None, (320, 111)),
        (150, None, (150, 75)),  # half a window at most
        (None, 0, (640, 0)),
    ],
)
def test_windows_as_asked_for(tile: int | None, overlap: float | None, expected: tuple[int, int]) -> None:
    tiling = tiling_for(tile, overlap, **MODEL)
    assert tiling is not None
    assert (tiling.tile, tiling.overlap) == expected


def test_a_model_of_whole_photos_has_no_windows_unless_asked_for() -> None:
    of_photos = MODEL | {"trained_tile": None}
    assert tiling_for(None, None, **of_photos) is None
    assert tiling_for(0, None, **MODEL) is None
    tiling = tiling_for(200, None, **of_photos)
    assert tiling is not None
    assert tiling.overlap == 50  # the sizes of its objects are those of other photos


@pytest.mark.parametrize(
    ("tile", "overlap", "line"),
    [
        (640, 1.5, "overlap: expected a share"),
        (640, 640.0, "overlap: expected 0 to 639"),
        (640, -0.1, "overlap: expected a share"),
        (31, None, "tile: expected"),
        (4097, None, "tile: expected"),
        (-1, None, "tile: expected"),
        (0, 0.5, "--overlap: needs windows"),
    ],
)
def test_windows_out_of_range_are_refused(tile: int, overlap: float | None, line: str) -> None:
    with pytest.raises(InputError, match=line):
        tiling_for(tile, overlap, **MODEL)
