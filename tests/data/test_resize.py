"""Scaling of images for published networks."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from focaldet.data.transforms import EvalTransform, View
from focaldet.photos.resize import Resize, resize_fixed_point

SIZES = [(640, 480), (480, 640), (640, 213), (97, 640), (800, 800), (33, 20), (1333, 799)]


def noise(width, height):
    generator = torch.Generator().manual_seed(width)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    none = torch.zeros(0, dtype=torch.int64)
    return View(image, torch.zeros(0, 4), none, none.bool())


@pytest.mark.parametrize("size", SIZES)
def test_torchvisions_resampling_is_that_of_its_detectors(size):
    photo = noise(*size)
    seen = EvalTransform(333, Resize(short_side=200, resampling="torchvision"))(photo).image
    theirs = GeneralizedRCNNTransform(200, 333, [0.0] * 3, [1.0] * 3).eval().resize(photo.image / 255)[0]
    torch.testing.assert_close(seen.float() / 255, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_opencvs_resampling_rounds_sizes_and_is_bilinear_within_a_grey_level(size):
    photo = noise(*size)
    seen = EvalTransform(333, Resize(short_side=200, resampling="opencv"))(photo).image
    scale = min(333 / max(size), 200 / min(size))
    assert seen.shape[2] == int(size[0] * scale + 0.5)
    assert seen.shape[1] == int(size[1] * scale + 0.5)
    plain = interpolate(photo.image[None].float(), seen.shape[1:], mode="bilinear", align_corners=False)[0]
    assert seen.dtype == torch.uint8
    assert float((seen.float() - plain).abs().max()) < 1.2


@pytest.mark.parametrize("size", [(160, 120), (41, 333), (150, 100), (64, 48), (7, 1)])
def test_fixed_point_is_opencvs_to_the_bit(size):
    cv2 = pytest.importorskip("cv2", reason="compares with OpenCV: pip install opencv-python-headless")
    photo = noise(100, 75).image.permute(1, 2, 0).numpy()
    theirs = cv2.resize(photo, size, interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(resize_fixed_point(photo, *size), theirs)


def test_fixed_point_is_what_opencv_gave_once():
    photo = np.repeat(np.array([[[7], [250], [13]], [[90], [31], [255]]], np.uint8), 3, axis=2)
    assert resize_fixed_point(photo, 7, 5)[..., 0].tolist() == [
        [7, 42, 146, 250, 148, 47, 13],
        [15, 46, 137, 228, 146, 64, 37],
        [49, 62, 101, 141, 138, 135, 134],
        [81, 77, 65, 53, 129, 205, 231],
        [90, 81, 56, 31, 127, 223, 255],
    ]


def test_shorter_side_is_reached_unless_the_longer_one_is_at_its_limit():
    resize = Resize(short_side=100)
    assert resize.canvas(300, 200, 1000) == (150, 100)
    assert resize.canvas(3000, 200, 1000) == (1000, 67)
    assert Resize().canvas(3000, 200, 1000) == (1000, 67)


def test_no_pixel_of_the_source_is_lost_before_a_published_resize():
    assert EvalTransform(64).source_side == 64
    for resampling in ("torchvision", "opencv"):
        assert EvalTransform(64, Resize(resampling=resampling)).source_side > 10_000


def test_image_at_its_size_already_is_left_alone():
    photo = noise(64, 48)
    for resampling in ("torchvision", "opencv"):
        seen = EvalTransform(64, Resize(resampling=resampling))(photo).image
        assert torch.equal(seen.to(torch.uint8), photo.image)
