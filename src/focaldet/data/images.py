"""Images as tensors; ``focaldet.photos.images`` reads the files."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor
from torchvision import io

from focaldet.photos.images import read_photo


def read_image(path: Path, *, max_side: int | None = None) -> UInt8[Tensor, "3 H W"]:
    """Read an image as upright 8-bit RGB; arguments and errors as in ``read_photo``."""
    return as_tensor(read_photo(path, max_side=max_side, jpeg=decode_jpeg))


def decode_jpeg(data: bytes) -> NDArray[np.uint8] | None:
    """Pixels ``(H, W, 3)`` of a JPEG file; ``None`` if it is damaged, or torchvision was built without libjpeg.

    They are Pillow's to the bit, by the same library. But Pillow keeps four bytes a pixel, and copies them twice: it
    takes twice as long.
    """
    try:
        pixels = io.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=io.ImageReadMode.RGB)
    except RuntimeError:
        return None
    return np.asarray(pixels.permute(1, 2, 0).numpy())


def as_tensor(photo: NDArray[np.uint8] | NDArray[np.float32]) -> Tensor:
    """A photo ``(H, W, 3)`` as a tensor ``(3, H, W)``.

    Its colours stay together in memory: torch resizes this twice as fast.
    """
    return torch.from_numpy(np.require(photo, requirements=["C", "W"])).permute(2, 0, 1)
