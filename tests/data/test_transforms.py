import numpy as np
import pytest
import torch

from focaldet import kernels
from focaldet.data.augmentation import STRENGTHS
from focaldet.data.pixels import jitter_colour
from focaldet.data.transforms import FLIPS, EvalTransform, TrainTransform
from focaldet.data.views import View, keep_visible
from focaldet.photos.tiling import FILL


def painted(size, boxes, ignored=None) -> View:
    """White rectangles on black, with their boxes."""
    image = torch.zeros(3, size[1], size[0], dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes:
        image[:, y1:y2, x1:x2] = 255
    flags = torch.tensor(ignored or [False] * len(boxes), dtype=torch.bool)
    return View(image, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.arange(len(boxes)), flags)


def found_box(image) -> list[int]:
    """Where the rectangle is seen: brighter than half of white, not the grey of the filling."""
    rows, columns = np.nonzero(image.float().mean(0).numpy() > 180)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def only_mirrored(image, amount, hue, *, left_right, upside_down):
    return image.flip([axis for axis, wanted in ((2, left_right), (1, upside_down)) if wanted])


@pytest.mark.parametrize("flips", FLIPS)
@pytest.mark.parametrize("strength", [s for s in STRENGTHS if s != "none"])
@pytest.mark.parametrize("size", [(320, 200), (200, 320)])
def test_boxes_stay_on_their_pixels(strength, flips, size, monkeypatch):
    monkeypatch.setattr("focaldet.data.transforms.jitter_colour", only_mirrored)
    transform = TrainTransform(160, strength=strength, flips=flips)
    seen = 0
    for seed in range(60):
        torch.manual_seed(seed)
        view = transform(painted(size, [(70, 50, 150, 170)]))
        assert tuple(view.image.shape) == ((3, 100, 160) if size[0] > size[1] else (3, 160, 100))
        if len(view.boxes_xyxy) and not view.ignored[0]:
            seen += 1
            np.testing.assert_allclose(view.boxes_xyxy[0].numpy(), found_box(view.image), atol=1.0)
    assert seen > 40


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (50, 50), (300, 7)])
def test_evaluation_only_scales(size):
    view = EvalTransform(32)(painted(size, [(0, 0, *size)]))
    height, width = view.image.shape[1:]
    assert max(height, width) == 32
    assert view.boxes_xyxy.tolist() == [[0, 0, width, height]]
    assert int(view.image.min()) == 255


def test_strength_none_is_evaluation():
    photo = painted((64, 48), [(8, 8, 24, 40)])
    for seed in range(5):
        torch.manual_seed(seed)
        view = TrainTransform(32, strength="none", flips="all")(photo)
        assert torch.equal(view.image, EvalTransform(32)(photo).image)


@pytest.mark.parametrize(("flips", "corners"), [("none", 1), ("horizontal", 2), ("all", 8)])
def test_flips_reach_every_arrangement_and_no_other(flips, corners):
    # Three corners of different brightness tell all eight arrangements of a square apart.
    image = torch.full((3, 64, 64), 40, dtype=torch.uint8)
    image[:, :16, :16], image[:, :16, -16:] = 120, 250
    photo = View(image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    transform = TrainTransform(64, strength="medium", flips=flips)
    transform.strength = type(transform.strength)(zoom=(1.0, 1.0), stretch=1.0, colour=0.0)
    arrangements = set()
    for seed in range(100):
        torch.manual_seed(seed)
        seen = transform(photo).image[0]
        arrangements.add(tuple(int(seen[y, x]) for y in (2, -3) for x in (2, -3)))
    assert len(arrangements) == corners


def test_a_hardly_visible_object_becomes_a_region_to_ignore():
    view = painted((100, 100), [(0, 0, 40, 40)] * 4)
    moved = torch.tensor([[-20.0, 0, 20, 40], [-32, 0, 8, 40], [-50, 0, -10, 40], [0, -39, 40, 1]])
    seen = keep_visible(View(view.image, moved, view.labels, view.ignored))
    # Half visible: an object. A fifth: to ignore. Outside: gone. One pixel high: to ignore.
    assert seen.labels.tolist() == [0, 1, 3]
    assert seen.ignored.tolist() == [False, True, True]
    assert seen.boxes_xyxy.tolist() == [[0, 0, 20, 40], [0, 0, 8, 40], [0, 0, 40, 1]]


def test_an_ignored_region_stays_one():
    for seed in range(10):
        torch.manual_seed(seed)
        view = TrainTransform(64)(painted((64, 64), [(0, 0, 64, 64), (0, 0, 64, 64)], ignored=[True, False]))
        assert view.ignored.tolist() == [True, False]


def test_an_image_without_boxes_passes():
    torch.manual_seed(0)
    view = TrainTransform(64, strength="strong", flips="all")(painted((64, 48), []))
    assert view.boxes_xyxy.shape == (0, 4)
    assert view.image.shape == (3, 48, 64)


def test_zooming_out_surrounds_the_photo_with_grey():
    photo = painted((64, 64), [(0, 0, 64, 64)])
    transform = TrainTransform(64, flips="none")
    transform.strength = type(transform.strength)(zoom=(0.5, 0.5), stretch=1.0, colour=0.0)
    torch.manual_seed(0)
    view = transform(photo)
    assert (view.image == FILL).float().mean().item() == 0.75
    assert found_box(view.image) == view.boxes_xyxy[0].tolist()


def test_stretch_changes_the_shape_of_an_object_and_not_its_area():
    photo = painted((200, 200), [(80, 80, 120, 120)])
    transform = TrainTransform(200, flips="none")
    transform.strength = type(transform.strength)(zoom=(0.5, 0.5), stretch=2.0, colour=0.0)
    ratios = []
    for seed in range(30):
        torch.manual_seed(seed)
        width, height = (lambda b: b[2:] - b[:2])(transform(photo).boxes_xyxy[0]).tolist()
        ratios.append(width / height)
        assert width * height == pytest.approx(400, rel=0.03)
    assert 0.5 <= min(ratios) < 0.7
    assert 1.4 < max(ratios) <= 2.0


def test_colour_without_amount_changes_nothing():
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    assert torch.equal(jitter_colour(image, 0.0), image)


@pytest.mark.skipif(kernels.available()["cpu"] is not None, reason="the kernels are not built")
@pytest.mark.parametrize("mirrored", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("shape", [(48, 600), (33, 7), (1, 1)])
def test_colour_is_the_same_with_and_without_the_kernel(shape, mirrored, monkeypatch):
    pixels = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    photo = pixels.permute(2, 0, 1)
    for image in (photo, photo.contiguous(), pixels.permute(2, 1, 0), photo[:, :, ::2]):  # orders of the memory
        made = []
        for reason in (None, "not built"):
            monkeypatch.setattr("focaldet.kernels._PROBLEMS", {"cpu": reason})
            torch.manual_seed(5)
            made.append(jitter_colour(image, 0.4, 0.1, left_right=mirrored[0], upside_down=mirrored[1]).int())
        different = (made[0] - made[1]).abs()
        assert different.max() <= 1  # where a sum is a whole number but for its rounding
        assert different.sum() <= max(1, 1e-4 * different.numel())


def test_colour_stays_within_its_amount():
    # A uniform grey has no contrast and no saturation to change: brightness alone moves it, by at most the amount.
    image = torch.full((3, 16, 16), 100, dtype=torch.uint8)
    values = set()
    for seed in range(50):
        torch.manual_seed(seed)
        values |= set(jitter_colour(image, 0.4).unique().tolist())
    assert 60 <= min(values) < 75
    assert 125 < max(values) <= 140


def test_unknown_options_are_named_with_the_near_one():
    with pytest.raises(ValueError, match="did you mean 'strong'"):
        TrainTransform(64, strength="stron")
    with pytest.raises(ValueError, match="did you mean 'horizontal'"):
        TrainTransform(64, flips="horizontl")
