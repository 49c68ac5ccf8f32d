"""Augmentations besides the preset: names and strengths, boxes on their pixels, ignore regions, and seeds."""

import numpy as np
import pytest
import torch

from focaldet.checks import InputError
from focaldet.data.augmentation import NAMES, Augmentation
from focaldet.data.batching import DetectionDataset, Draw
from focaldet.data.folder import read_folder
from focaldet.data.pixels import degrade, hue_matrix, jitter_colour
from focaldet.data.transforms import EvalTransform, TrainTransform
from focaldet.data.views import View, rotate

from .builders import write_coco


def painted(size, boxes, colours, ignored=None) -> View:
    """Rectangles on black, each of its own grey value, with their boxes; the label is the index."""
    image = torch.zeros(3, size[1], size[0], dtype=torch.uint8)
    for (x1, y1, x2, y2), colour in zip(boxes, colours, strict=True):
        image[:, y1:y2, x1:x2] = colour
    flags = torch.tensor(ignored or [False] * len(boxes), dtype=torch.bool)
    return View(image, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.arange(len(boxes)), flags)


def box_of(image, low, high) -> list[int]:
    """Where pixels have a value in this range."""
    rows, columns = np.nonzero(((image[0] >= low) & (image[0] <= high)).numpy())
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.fixture
def records(tmp_path):
    write_coco(tmp_path)
    folder = read_folder(tmp_path)
    return folder.splits["train"] + folder.splits["val"]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("strong", "strong"),
        ("none,mosaic", "none,mosaic=0.5"),
        (" rotate=12 , medium", "medium,rotate=12"),
        ("mixup=0", "light"),
        ("light,multi-scale=.1,copy-paste", "light,copy-paste=0.5,multi-scale=0.1"),
    ],
)
def test_a_preset_and_names_are_read(text, meant):
    assert str(Augmentation.parse(text)) == meant
    assert Augmentation.parse(meant) == Augmentation.parse(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lihgt", "unknown name 'lihgt'; did you mean 'light'"),
        ("light,mosiac", "unknown name 'mosiac'; did you mean 'mosaic'"),
        ("copy_paste", "did you mean 'copy-paste'"),
        ("light,strong", "a preset is given twice"),
        ("hue,hue=0.1", "hue is given twice"),
        ("light=2", "light is a preset and has no strength"),
        ("mosaic=1.5", "mosaic: expected a strength from 0 to 1, got '1.5'"),
        ("rotate=nan", "rotate: expected a strength from 0 to 30, got 'nan'"),
        ("blur=much", "blur: expected a strength from 0 to 10, got 'much'"),
        ("", "unknown name ''"),
    ],
)
def test_mistakes_in_names_and_strengths_are_named(text, words):
    with pytest.raises(InputError, match=f"^augment: .*{words}"):
        Augmentation.parse(text)


@pytest.mark.parametrize("name", NAMES)
def test_each_augmentation_changes_samples_and_depends_on_seed_epoch_and_photo_alone(records, name):
    transform = TrainTransform(128, flips="none", augmentation=Augmentation.parse(f"none,{name}"))
    dataset = DetectionDataset(records, transform, seed=3)
    plain = DetectionDataset(records, TrainTransform(128, strength="none"), seed=3)
    draws = [Draw(epoch, photo, batch=epoch) for epoch in range(8) for photo in range(3)]
    samples = [dataset[draw] for draw in draws]
    torch.manual_seed(99)
    again = DetectionDataset(records, transform, seed=3, cache_bytes=0)
    for draw, sample in reversed(list(zip(draws, samples, strict=True))):
        assert torch.equal(again[draw].image, sample.image)
        assert torch.equal(again[draw].boxes_xyxy, sample.boxes_xyxy)
    changed = sum(not torch.equal(plain[draw].image, s.image) for draw, s in zip(draws, samples, strict=True))
    # mixup, by default, is for one sample in seven; a size may be drawn that is the usual one.
    assert changed >= (1 if name == "mixup" else 5)


def test_light_alone_is_what_it_was_before_there_were_names(records):
    sample = DetectionDataset(records, TrainTransform(48, strength="light"), seed=3)[1, 0]
    named = DetectionDataset(records, TrainTransform(48, augmentation=Augmentation.parse("light")), seed=3)[1, 0]
    assert torch.equal(sample.image, named.image)


@pytest.mark.parametrize("name", ["mosaic=1", "mixup=1", "copy-paste=1"])
def test_nothing_is_mixed_at_the_end_of_a_run(records, name):
    mixing = DetectionDataset(records, TrainTransform(64, augmentation=Augmentation.parse(name)), seed=3)
    alone = DetectionDataset(records, TrainTransform(64, strength="light"), seed=3)
    assert torch.equal(mixing[Draw(2, 1, mix=False)].image, alone[Draw(2, 1)].image)
    assert not torch.equal(mixing[Draw(2, 1)].image, alone[Draw(2, 1)].image)


def test_objects_of_a_mosaic_lie_on_their_pixels():
    photos = [painted((120, 80), [(30, 20, 90, 60)], [colour]) for colour in (150, 180, 210, 240)]
    transform = TrainTransform(120, flips="none", augmentation=Augmentation.parse("none,mosaic=1"))
    whole = 0
    for seed in range(30):
        torch.manual_seed(seed)
        others = iter(photos[1:])
        view = transform(photos[0], lambda others=others: next(others))
        assert view.image.shape == (3, 80, 120)
        for (x1, y1, x2, y2), ignored in zip(view.boxes_xyxy.round().int().tolist(), view.ignored, strict=True):
            if not ignored:
                colour = int(view.image[0, (y1 + y2) // 2, (x1 + x2) // 2])
                assert colour in (150, 180, 210, 240)
                area = int(((view.image[0].int() - colour).abs() <= 1).sum())
                inside = ((view.image[0, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].int() - colour).abs() <= 1).all()
                assert inside
                assert area <= (x2 - x1 + 2) * (y2 - y1 + 2)
                whole += 1
    assert whole > 60


def test_a_mosaic_keeps_ignore_regions():
    photo = painted((64, 64), [(0, 0, 64, 64), (20, 20, 40, 40)], [50, 200], ignored=[True, False])
    torch.manual_seed(0)
    view = TrainTransform(64, augmentation=Augmentation.parse("none,mosaic=1"))(photo, lambda: photo)
    assert (view.ignored & (view.labels == 0)).sum() == 4
    assert not view.ignored[view.labels == 1].all()


def test_a_pasted_object_lies_in_its_box_and_covers_little_of_the_others():
    ground = painted((100, 100), [(0, 0, 30, 30)], [255])
    other = painted((100, 100), [(40, 40, 60, 60), (80, 80, 99, 99)], [180, 120], ignored=[False, True])
    transform = TrainTransform(100, flips="none", augmentation=Augmentation.parse("none,copy-paste=1"))
    pasted = 0
    for seed in range(30):
        torch.manual_seed(seed)
        view = transform(ground, lambda: other)
        assert view.boxes_xyxy[0].tolist() == [0, 0, 30, 30]
        assert (view.image[0, :30, :30] == 255).float().mean() >= 0.55  # 30 %, the fading margin, twice at most
        assert ground.image[0, :30, :30].min() == 255  # the photo itself, which may be kept in memory, is as before
        assert not view.ignored.any()  # objects are pasted, and not an ignore region
        last = view.boxes_xyxy[-1].round().int().tolist()
        if len(view.labels) == 2:  # one object was pasted: nothing covers it
            np.testing.assert_allclose(box_of(view.image, 150, 200), last, atol=2)
        pasted += len(view.labels) - 1
    assert pasted > 40


def test_mixed_photos_have_the_boxes_and_ignore_regions_of_both():
    one = painted((64, 64), [(8, 8, 24, 24)], [200])
    two = painted((64, 64), [(40, 40, 60, 60), (0, 0, 64, 8)], [200, 0], ignored=[False, True])
    torch.manual_seed(0)
    view = TrainTransform(64, augmentation=Augmentation.parse("none,mixup=1"))(one, lambda: two)
    assert view.boxes_xyxy.tolist() == [[8, 8, 24, 24], [40, 40, 60, 60], [0, 0, 64, 8]]
    assert view.ignored.tolist() == [False, False, True]
    shares = [int(view.image[0, 16, 16]) / 200, int(view.image[0, 50, 50]) / 200]
    assert sum(shares) == pytest.approx(1, abs=0.01)
    assert min(shares) >= 0.39


@pytest.mark.parametrize("degrees", [-30, -10, 5, 30])
def test_a_rotated_box_fits_the_rotated_ellipse(degrees):
    y, x = torch.meshgrid(torch.arange(120) + 0.5, torch.arange(200) + 0.5, indexing="ij")
    ellipse = ((x - 130) / 40) ** 2 + ((y - 50) / 20) ** 2 <= 1
    image = (ellipse * 255).to(torch.uint8).expand(3, -1, -1).contiguous()
    box = torch.tensor([[90.0, 30, 170, 70]])
    view = rotate(View(image, box, torch.tensor([0]), torch.tensor([False])), degrees)
    seen = box_of(torch.where(view.image == 114, 0, view.image), 128, 255)
    np.testing.assert_allclose(view.boxes_xyxy[0].numpy(), seen, atol=1.01)


def test_a_rotated_ignore_region_covers_all_that_it_covered():
    photo = painted((100, 100), [(30, 40, 70, 60)], [255], ignored=[True])
    view = rotate(photo, 30)
    seen = box_of(view.image, 200, 255)
    np.testing.assert_allclose(view.boxes_xyxy[0].numpy(), seen, atol=2)
    assert view.ignored.tolist() == [True]


def test_hue_turns_colours_and_leaves_grey_alone():
    red = torch.tensor([1.0, 0.0, 0.0])
    third = hue_matrix(1 / 3) @ red
    assert int(third.argmax()) != 0
    assert torch.allclose(hue_matrix(-1 / 3) @ third, red, atol=1e-5)
    image = torch.full((3, 8, 8), 77, dtype=torch.uint8)
    torch.manual_seed(0)
    assert torch.equal(jitter_colour(image, 0.0, 0.5), image)


@pytest.mark.parametrize(("name", "most"), [("blur", 10), ("noise", 100), ("jpeg", 99)])
def test_a_stronger_change_of_pixels_changes_more(name, most):
    image = torch.randint(0, 256, (3, 12, 16), dtype=torch.uint8).repeat_interleave(4, 1).repeat_interleave(4, 2)

    def change(strength):
        total = 0.0
        for seed in range(20):
            torch.manual_seed(seed)
            total += float((degrade(image, Augmentation(**{name: strength})).float() - image.float()).abs().mean())
        return total

    assert 0 < change(most / 20) < change(most)


def test_the_size_varies_by_batch_and_is_the_same_within_one(records):
    augmentation = Augmentation.parse("none,multi-scale=0.5")
    dataset = DetectionDataset(records, TrainTransform(128, augmentation=augmentation), seed=3)
    sides = [{max(dataset[Draw(1, photo, batch)].image.shape) for photo in range(3)} for batch in range(20)]
    assert all(len(of_batch) == 1 for of_batch in sides)
    assert set().union(*sides) == {64, 96, 128, 160, 192}
    box = dataset[Draw(1, 0, 0)].boxes_xyxy[0] / max(dataset[Draw(1, 0, 0)].image.shape)
    assert torch.allclose(box, DetectionDataset(records, EvalTransform(128))[0].boxes_xyxy[0] / 128, atol=0.01)
    assert dataset.transform.source_side == 192
