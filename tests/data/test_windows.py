"""Windows of photos at their own resolution, as training sees them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from focaldet.checks import InputError
from focaldet.data.augmentation import STRENGTHS, Augmentation
from focaldet.data.batching import Draw, TrainingSampler, collate
from focaldet.data.object_sizes import auto_tile, largest_side, size_difference, suggests_tile, too_large_without_tile
from focaldet.data.records import ImageRecord
from focaldet.data.transforms import TrainTransform
from focaldet.data.windows import WindowDataset, grid_of, place_window, windows_per_epoch
from focaldet.photos import decoded_file, regions
from focaldet.photos.regions import FILL

TILE = 64


def record(
    path: Path, size: tuple[int, int], boxes: list[list[float]], ignored: list[bool] | None = None
) -> ImageRecord:
    count = len(boxes)
    return ImageRecord(
        path,
        path.name,
        0,
        *size,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.zeros(count, np.int64),
        np.array(ignored if ignored is not None else [False] * count, bool),
    )


def photo(path: Path, size: tuple[int, int], boxes: list[list[float]], **options: object) -> ImageRecord:
    """A photo in which each pixel encodes its position: red is its column, green its row, blue the hundreds of both."""
    y, x = np.mgrid[: size[1], : size[0]]
    pixels = np.stack([x % 100, y % 100, x // 100 + 16 * (y // 100)], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return record(path, size, boxes)


def place_of(image: torch.Tensor) -> tuple[int, int]:
    """(left, top) of a sample at zoom 1, read off its pixels."""
    red, green, blue = image[:, 0, 0].tolist()
    return red + 100 * (blue % 16), green + 100 * (blue // 16)


BOXES = [[10, 10, 30, 30], [300, 200, 310, 215], [100, 40, 130, 60], [381, 281, 400, 300]]


@pytest.fixture
def large(tmp_path: Path) -> ImageRecord:
    return photo(tmp_path / "large.png", (400, 300), BOXES)


def as_is() -> TrainTransform:
    return TrainTransform(TILE, strength="none")


def test_without_augmentation_a_window_has_the_pixels_of_the_photo(large):
    whole = torch.from_numpy(np.array(Image.open(large.path))).permute(2, 0, 1)
    dataset = WindowDataset([large], as_is(), share=0.5)
    places = set()
    for index in range(len(dataset)):
        image = dataset[0, index].image
        left, top = place_of(image)
        assert torch.equal(image, whole[:, top : top + TILE, left : left + TILE])
        places.add((left, top))
    assert len(places) > 20


def test_an_epoch_has_windows_in_proportion_to_the_area(tmp_path):
    sizes = [(640, 640), (1280, 640), (100, 100), (640, 320)]
    records = [record(tmp_path / "a.png", size, []) for size in sizes]
    assert [windows_per_epoch([one], 160) for one in records] == [16, 32, 1, 8]
    for size in sizes:
        columns, rows = grid_of(size, 160)
        assert columns * rows == max(1, size[0] * size[1] // 160**2)


def test_each_number_belongs_to_one_place_of_one_photo(tmp_path):
    records = [photo(tmp_path / f"{i}.png", size, []) for i, size in enumerate([(128, 64), (50, 50), (192, 128)])]
    dataset = WindowDataset(records, as_is(), share=0.5)
    found = [dataset.photo_of(index) for index in range(len(dataset))]
    assert found[:3] == [(0, (0, 0)), (0, (1, 0)), (1, (0, 0))]
    assert found[3:] == [(2, (column, row)) for row in range(2) for column in range(3)]


def test_windows_without_an_object_cover_the_photo_evenly(large):
    rng = np.random.default_rng(0)
    grid = grid_of((400, 300), TILE)
    seen = np.zeros((300, 400), int)
    for _ in range(40):
        for row in range(grid[1]):
            for column in range(grid[0]):
                window = place_window(large, (column, row), grid, TILE, share=0, rng=rng)
                seen[window.top : window.top + TILE, window.left : window.left + TILE] += 1
    inner = seen[TILE:-TILE, TILE:-TILE]
    assert seen.min() > 0
    assert inner.min() > 0.6 * inner.mean()


def test_a_window_around_an_object_has_all_of_it_and_each_object_its_turn(large):
    rng = np.random.default_rng(0)
    turns = np.zeros(len(BOXES), int)
    places = set()
    for _ in range(400):
        left, top, width, height = place_window(large, (0, 0), (6, 5), TILE, share=1, rng=rng)
        whole = [x1 >= left and y1 >= top and x2 <= left + width and y2 <= top + height for x1, y1, x2, y2 in BOXES]
        assert any(whole)
        turns += whole
        places.add((left, top))
    assert turns.min() > 50
    assert len(places) > 200


def test_of_an_object_larger_than_the_window_only_it_is_seen(tmp_path):
    one = record(tmp_path / "a.png", (400, 300), [[50, 40, 250, 220]])
    rng = np.random.default_rng(0)
    for _ in range(50):
        left, top, *_ = place_window(one, (0, 0), (1, 1), TILE, share=1, rng=rng)
        assert 50 <= left <= 250 - TILE
        assert 40 <= top <= 220 - TILE


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_windows_around_objects_is_as_asked(tmp_path, share):
    one = record(tmp_path / "a.png", (4000, 4000), [[10, 10, 20, 20]])
    rng = np.random.default_rng(0)
    near = [place_window(one, (30, 30), (62, 62), TILE, share=share, rng=rng).left <= 10 for _ in range(1000)]
    assert abs(np.mean(near) - share) < 0.05


def test_ignored_regions_draw_no_windows(tmp_path):
    one = record(tmp_path / "a.png", (4000, 4000), [[10, 10, 20, 20]], [True])
    rng = np.random.default_rng(0)
    assert all(place_window(one, (30, 30), (62, 62), TILE, share=1, rng=rng).left > 1000 for _ in range(20))


def test_an_object_cut_by_the_border_is_clipped_or_an_ignore_region(tmp_path):
    # A window of the whole height: what it has of the long box depends on its left side alone.
    one = photo(tmp_path / "a.png", (200, TILE), [[100, 10, 140, 50]])
    dataset = WindowDataset([one], as_is(), share=0)
    kinds = set()
    for epoch in range(60):
        for index in range(len(dataset)):
            sample = dataset[epoch, index]
            left, _ = place_of(sample.image)
            seen = max(0, min(140, left + TILE) - max(100, left))
            kind = "none" if seen == 0 else "ignored" if seen < 10 else "object"
            kinds.add(kind)
            assert (len(sample.boxes_xyxy), len(sample.ignored_xyxy)) == {
                "none": (0, 0), "ignored": (0, 1), "object": (1, 0)
            }[kind]  # fmt: skip
            if kind != "none":
                box = torch.cat([sample.boxes_xyxy, sample.ignored_xyxy])[0].tolist()
                assert box == [max(100, left) - left, 10, min(140, left + TILE) - left, 50]
    assert kinds == {"none", "ignored", "object"}


def test_objects_have_their_own_size_times_the_zoom(tmp_path):
    boxes = [[x, y, x + 12, y + 12] for x in range(20, 360, 40) for y in range(20, 260, 40)]
    one = photo(tmp_path / "a.png", (400, 300), boxes)
    dataset = WindowDataset([one], TrainTransform(TILE, strength="light"), share=0.5)
    sides = []
    for epoch in range(10):
        for index in range(len(dataset)):
            sample = dataset[epoch, index]
            assert sample.image.shape == (3, TILE, TILE)
            inner = (sample.boxes_xyxy > 0.5).all(1) & (sample.boxes_xyxy < TILE - 0.5).all(1)
            whole = sample.boxes_xyxy[inner]
            sides += (whole[:, 2:] - whole[:, :2]).flatten().tolist()
    low, high = STRENGTHS["light"].zoom
    assert min(sides) / 12 > low - 0.02
    assert max(sides) / 12 < high + 0.02
    assert np.quantile(sides, 0.1) / 12 < 0.93
    assert np.quantile(sides, 0.9) / 12 > 1.1


def test_zooming_out_shows_more_of_the_photo_and_no_grey(large):
    dataset = WindowDataset([large], TrainTransform(TILE, strength="strong", flips="all"), share=0.5)
    dataset.transform.strength = STRENGTHS["none"]
    for index in range(len(dataset)):
        assert not (dataset[0, index].image == FILL).all(0).any()


def test_a_photo_smaller_than_the_window_has_grey_around_it(tmp_path):
    one = photo(tmp_path / "a.png", (40, 30), [[5, 5, 25, 20]])
    dataset = WindowDataset([one], as_is(), share=1)
    assert len(dataset) == 1
    image, boxes = dataset[0, 0].image, dataset[0, 0].boxes_xyxy
    assert image.shape == (3, TILE, TILE)
    assert int((image != FILL).any(0).sum()) == 40 * 30
    assert (boxes[0, 2:] - boxes[0, :2]).tolist() == [20, 15]
    left, top = boxes[0, :2].int().tolist()
    assert image[:2, top, left].tolist() == [5, 5]


def same(a, b) -> bool:
    return all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in ("image", "boxes_xyxy", "labels", "ignored_xyxy")
    )


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_sample_depends_on_seed_epoch_and_index_alone(tmp_path, monkeypatch, suffix):
    """In memory or read window by window, in whatever order and process."""
    records = [photo(tmp_path / f"a{suffix}", (400, 300), BOXES), photo(tmp_path / f"b{suffix}", (90, 70), BOXES[:1])]
    first = WindowDataset(records, TrainTransform(TILE), share=0.5, seed=3)
    assert first.cached
    samples = {(epoch, index): first[epoch, index] for epoch in range(2) for index in range(len(first))}
    monkeypatch.setattr(regions, "IN_MEMORY", 1000)  # large photos
    again = WindowDataset(records, TrainTransform(TILE), share=0.5, seed=3, cache_bytes=0)
    assert not again.cached
    torch.manual_seed(99)
    assert all(same(again[key], samples[key]) for key in reversed(samples))
    sampler = TrainingSampler(len(again), batch_size=4, seed=1)
    order = list(sampler)
    loader = DataLoader(again, batch_size=4, sampler=sampler, num_workers=2, collate_fn=collate)
    images = torch.cat([batch.images for batch in loader])
    assert all(torch.equal(image, samples[key[:2]].image) for image, key in zip(images, order, strict=True))
    assert not same(samples[0, 0], samples[1, 0])
    assert not same(samples[0, 0], WindowDataset(records, TrainTransform(TILE), share=0.5, seed=4)[0, 0])


def test_a_photo_that_cannot_be_read_is_replaced_and_named_once(tmp_path, large):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    bad = record(tmp_path / "bad.png", (100, 100), [])
    for cache_bytes in (0, 10**9):
        dataset = WindowDataset([bad, large], as_is(), share=0.5, cache_bytes=cache_bytes)
        assert dataset[0, 0].index == 4  # the first window of the other photo
        (line,) = dataset.newly_unreadable()
        assert "bad.png: not an image" in line
        assert dataset.newly_unreadable() == []
    with pytest.raises(InputError, match="no photo of the split can be read"):
        WindowDataset([bad], as_is(), share=0.5)[0, 0]


@pytest.mark.parametrize("cache_bytes", [0, 10**9])
def test_an_object_that_cannot_be_read_is_an_ignore_region(tmp_path, monkeypatch, cache_bytes):
    monkeypatch.setattr(regions, "IN_MEMORY", 1000)
    monkeypatch.setattr(regions, "_AT_ONCE", 4000)
    one = photo(tmp_path / "a.png", (400, 300), BOXES, compress_level=0)
    data = one.path.read_bytes()
    one.path.write_bytes(data[: len(data) // 2])
    dataset = WindowDataset([one], as_is(), share=1, cache_bytes=cache_bytes)
    read, unread = set(), set()
    for epoch in range(20):
        sample = dataset[epoch, 0]
        read |= {tuple(size) for size in (sample.boxes_xyxy[:, 2:] - sample.boxes_xyxy[:, :2]).int().tolist()}
        unread |= {tuple(size) for size in (sample.ignored_xyxy[:, 2:] - sample.ignored_xyxy[:, :2]).int().tolist()}
    assert {(20, 20), (30, 20)} <= read
    assert {(10, 15), (19, 19)} <= unread
    assert not {(10, 15), (19, 19)} & read
    assert dataset.newly_partial() == [f"{one.path}: parts of it cannot be read, and are grey in training"]
    assert dataset.newly_partial() == []


def test_no_room_for_decoded_pixels_ends_training_and_is_not_a_damaged_photo(tmp_path, monkeypatch, large):
    monkeypatch.setattr(regions, "IN_MEMORY", 1000)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(decoded_file.shutil, "disk_usage", lambda folder: usage)
    dataset = WindowDataset([large], as_is(), share=0.5, cache_bytes=0)
    for workers in (0, 1):
        loader = DataLoader(dataset, batch_size=2, num_workers=workers, collate_fn=collate)
        with pytest.raises(InputError, match=r"large\.png: its decoded pixels take .* GB, and .* has room") as caught:
            next(iter(loader))
        assert "\n" not in str(caught.value)


def test_decoded_pixels_are_made_once_and_go_with_the_dataset(tmp_path, monkeypatch, large):
    monkeypatch.setattr(regions, "IN_MEMORY", 1000)
    dataset = WindowDataset([large], as_is(), share=0.5, cache_bytes=0)
    folder = dataset._folder
    dataset[0, 0]
    (file,) = folder.iterdir()
    made = file.stat().st_mtime_ns
    dataset._open.popitem()[1].close()
    dataset[0, 1]
    assert [(path, path.stat().st_mtime_ns) for path in folder.iterdir()] == [(file, made)]
    del dataset
    assert not folder.exists()


def test_auto_has_room_for_the_objects(tmp_path):
    def chosen(side: float, coarsest: int = 128) -> int:
        boxes = [[0, 0, side, side]] * 99 + [[0, 0, 900, 900]]
        return auto_tile([record(tmp_path / "a.png", (4000, 4000), boxes)], coarsest)[0]

    assert [chosen(side) for side in (10, 25, 60, 100, 500)] == [384, 384, 512, 896, 1024]
    assert chosen(50, 64) == 448
    tile, why = auto_tile([record(tmp_path / "a.png", (4000, 4000), [[0, 0, 60, 60], [0, 0, 300, 10]])], 128)
    assert tile == 640
    assert why == "--tile auto: windows of 640 px (the median object has 57 px, and 98 of 100 have at most 296 px)"
    assert auto_tile([record(tmp_path / "a.png", (4000, 4000), [])], 128)[0] == 384
    assert largest_side([]) == 0


def test_splits_whose_objects_differ_in_size_are_named():
    assert size_difference({"train": 10, "val": 14.9, "test": 6.8}, 320) == ""
    line = size_difference({"train": 10, "val": 14.9, "test": 6.0}, 320)
    assert line.startswith("in photos scaled to 320 px, objects of test are 0.6 times as large as those of train")
    assert size_difference({"train": float("nan"), "val": 5.0}, 320) == ""
    assert size_difference({"train": 5.0, "val": float("nan")}, 320) == ""


def test_windows_are_suggested_where_scaling_makes_objects_too_small(tmp_path):
    def said(size: tuple[int, int], side: int) -> str:
        return suggests_tile([record(tmp_path / "a.png", size, [[0, 0, side, side]])], 320, 8)

    assert said((1764, 1000), 25).startswith("the median object has 25 px in the photo and 5 px at 320 px")
    assert said((400, 300), 25) == ""  # scaling changes little
    assert said((1764, 1000), 200) == ""  # large enough all the same


def test_photos_too_large_to_decode_whole_are_counted(tmp_path):
    sizes = [(400, 300), (20_000, 5_000), (40_000, 30_000)]
    records = [record(tmp_path / "a.tif", size, []) for size in sizes]
    assert too_large_without_tile(records[:1]) == ""
    assert too_large_without_tile(records) == (
        "photos of more than 80,000,000 pixels, which are only read in windows (--tile): 2"
    )


def test_many_photos_are_read_into_memory_by_threads_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("focaldet.data.kept.cores", lambda: 16)
    records = [photo(tmp_path / f"{number}.png", (70 + number, 64), []) for number in range(30)]
    dataset = WindowDataset(records, as_is(), share=0.5)
    for number, image in enumerate(dataset._images):
        pixels = np.array(Image.open(records[number].path))
        assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1))


def test_windows_are_mixed_too_and_depend_on_the_draw_alone(tmp_path, large):
    records = [large, photo(tmp_path / "b.png", (200, 150), BOXES[:1])]

    def made() -> WindowDataset:
        mixing = TrainTransform(TILE, augmentation=Augmentation("light", mosaic=1.0, mixup=0.5))
        return WindowDataset(records, mixing, share=0.5, seed=3)

    first, again = made(), made()
    draws = [Draw(epoch, index) for epoch in range(2) for index in range(6)]
    samples = {draw: first[draw] for draw in draws}
    assert all(same(again[draw], samples[draw]) for draw in reversed(draws))
    assert not same(first[Draw(0, 0)], first[Draw(0, 0, mix=False)])
