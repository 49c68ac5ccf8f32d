"""Images as tensors; ``focaldet.photos.images`` reads the files."""

import contextlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from focaldet.photos.images import read_photo

with contextlib.suppress(ImportError):  # provides the decoder, which torchvision plans to remove (0.29)
    import torchvision.io  # noqa: F401

_decode_jpeg = getattr(torch.ops.image, "decode_jpeg", None)
_RGB = 3
"""torchvision's ``ImageReadMode.RGB``."""


def read_image(path: Path, *, max_side: int | None = None) -> UInt8[Tensor, "3 H W"]:
    """Read an image as upright 8-bit RGB; arguments and errors as in ``read_photo``."""
    return as_tensor(read_photo(path, max_side=max_side, jpeg=decode_jpeg))


def decode_jpeg(data: bytes) -> NDArray[np.uint8] | None:
    """Pixels ``(H, W, 3)`` of a JPEG file; ``None`` if it is damaged, or torchvision has no decoder.

    They equal Pillow's bit for bit, since both use the same library. But Pillow keeps four bytes per pixel and copies
    them twice, which takes twice as long.
    """
    if _decode_jpeg is None:
        return None
    try:
        pixels: Tensor = _decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), _RGB, False)
    except RuntimeError:
        return None
    return np.asarray(pixels.permute(1, 2, 0).numpy())


def as_tensor(photo: NDArray[np.uint8] | NDArray[np.float32]) -> Tensor:
    """A photo ``(H, W, 3)`` as a tensor ``(3, H, W)``.

    The colours of a pixel stay adjacent in memory: torch resizes this layout twice as fast.
    """
    return torch.from_numpy(np.require(photo, requirements=["C", "W"])).permute(2, 0, 1)
