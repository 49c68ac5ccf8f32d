"""An exported model gets the same pixels as evaluation: photos are read, rotated and scaled alike."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from colours import CARD, colour_model
from PIL import Image

from focaldet.data.transforms import EvalTransform, View
from focaldet.photos.images import as_photo
from focaldet.photos.resize import Resize
from focaldet.runtime.card import KEY
from focaldet.runtime.onnx_detector import OnnxDetector

RESIZES = {
    "antialias": Resize(),
    "antialias, short side": Resize(short_side=30),
    "torchvision": Resize(short_side=30, resampling="torchvision"),
    "torchvision, long side": Resize(resampling="torchvision"),
    "opencv": Resize(short_side=30, resampling="opencv"),
    "opencv, long side": Resize(resampling="opencv"),
}

MODES = ["RGB", "L", "RGBA", "CMYK", "P", "I;16"]


def written(folder: Path, size: tuple[int, int], mode: str, orientation: int) -> Path:
    """A photo of noise as a file of this mode, lying as its EXIF orientation says."""
    noise = np.random.default_rng(0).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    if mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    elif mode == "RGBA":
        image.putalpha(Image.fromarray(noise[..., 1]))
    else:
        image = image.convert(mode)
    exif = Image.Exif()
    exif[274] = orientation
    file = folder / "photo.tif"
    image.save(file, exif=exif)
    return file


def assert_same_pixels(file: Path, resize: Resize, size: int) -> None:
    dtype = {"torchvision": 1}.get(resize.resampling)  # float, where colours are not rounded
    model_file = file.with_name("model.onnx")
    model_file.write_bytes(colour_model({KEY: replace(CARD, resize=resize, size=size).to_json()}, dtype))
    seen = OnnxDetector.load(model_file).prepare(as_photo(file))
    transform, none = EvalTransform(size, resize), torch.zeros(0, dtype=torch.int64)
    expected = transform(View(transform.read(file), torch.zeros(0, 4), none, none.bool())).image
    pixels = expected.permute(1, 2, 0).numpy()
    assert seen.pixels.dtype == pixels.dtype
    assert seen.size == pixels.shape[:2]
    assert np.array_equal(seen.pixels, pixels)


@pytest.mark.parametrize("name", RESIZES)
@pytest.mark.parametrize("size", [(97, 61), (61, 97), (40, 30), (23, 11), (1, 1), (400, 3)])
def test_every_way_to_scale_gives_the_pixels_of_evaluation(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    assert_same_pixels(written(tmp_path, size, "RGB", 1), RESIZES[name], 40)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["antialias", "torchvision", "opencv"])
def test_every_kind_of_pixels_gives_those_of_evaluation(tmp_path: Path, name: str, mode: str) -> None:
    assert_same_pixels(written(tmp_path, (97, 61), mode, 6), RESIZES[name], 40)


def test_a_jpeg_gives_the_pixels_of_evaluation(tmp_path: Path, cells: Path) -> None:
    for number, file in enumerate(sorted((cells / "JPEGImages").iterdir())):
        copy = tmp_path / file.name
        copy.write_bytes(file.read_bytes())
        assert_same_pixels(copy, Resize(), 320 - 37 * number)
