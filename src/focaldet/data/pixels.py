"""Changes to the pixels of a photo: colour, hue, blur, noise, JPEG. Objects do not move.

All randomness comes from torch's global generator, and no result depends on the number of threads.
"""

import io
import math

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter
from torch import Tensor

from focaldet import kernels
from focaldet.data.augmentation import Augmentation

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601: weights of red, green and blue in the grey value of a colour."""

CHUNK = 32_768
"""Number of pixels to recolour at a time."""


def jitter_colour(
    image: UInt8[Tensor, "3 H W"],
    amount: float,
    hue: float = 0.0,
    *,
    left_right: bool = False,
    upside_down: bool = False,
) -> UInt8[Tensor, "3 H W"]:
    """Random saturation, contrast and brightness, each by a factor in ``1 ± amount``, and a random hue rotation.

    All are affine in the colour. One 3 × 3 matrix and one offset apply them in a single pass without intermediate
    rounding. The same pass mirrors the image.
    """
    saturation, contrast, brightness = (1 + amount * (2 * torch.rand(3) - 1)).tolist()
    grey = torch.tensor(LUMA)
    matrix = contrast * brightness * (saturation * torch.eye(3) + (1 - saturation) * grey)
    if hue:
        matrix = matrix @ hue_matrix(hue * uniform(-1, 1))
    share = (1 - contrast) * brightness
    if kernels.available()["cpu"] is None:
        numbers = torch.cat([matrix.flatten(), grey])
        return torch.ops.focaldet.recolour(image, numbers, share, left_right, upside_down)  # type: ignore[no-any-return]
    return recolour(image, matrix, share, left_right=left_right, upside_down=upside_down)


def recolour(
    image: UInt8[Tensor, "3 H W"], matrix: Float[Tensor, "3 3"], share: float, *, left_right: bool, upside_down: bool
) -> UInt8[Tensor, "3 H W"]:
    """Replacement for the kernel of the same name if it is missing; only the order of the sums differs.

    Args:
        matrix: changes a colour.
        share: share of the mean grey value that is added to every colour.
    """
    mirrored = [axis for axis, wanted in ((2, left_right), (1, upside_down)) if wanted]
    pixels = (image.flip(mirrored) if mirrored else image).reshape(3, -1)
    # Every 16th pixel suffices for the mean. Integer sums do not depend on the number of threads.
    sample = pixels[:, ::16]
    offset = share * (torch.tensor(LUMA) @ (sample.sum(1) / sample.shape[1])) + 0.5
    coloured = torch.empty_like(pixels)
    for first in range(0, pixels.shape[1], CHUNK):  # as much as fits in the processor's cache
        part = slice(first, first + CHUNK)
        coloured[:, part] = torch.addmm(offset.expand(3, 1), matrix, pixels[:, part].float()).clamp_(0, 255)
    return coloured.view(image.shape)


def hue_matrix(turns: float) -> Float[Tensor, "3 3"]:
    """The matrix that rotates the hue of a colour by this share of a full turn and keeps its grey value.

    >>> torch.allclose(hue_matrix(0.1) @ torch.ones(3), torch.ones(3))  # grey stays grey
    True
    """
    # Rows: grey value, and the two axes of colour difference of NTSC, in which a rotation turns the hue.
    to_yiq = torch.tensor([LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)])
    cos, sin = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    turn = torch.tensor([[1.0, 0, 0], [0, cos, -sin], [0, sin, cos]])
    matrix: Tensor = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return matrix


def degrade(image: UInt8[Tensor, "3 H W"], chosen: Augmentation) -> UInt8[Tensor, "3 H W"]:
    """Random blur, noise and JPEG compression, in the order in which a camera adds them, each on half of the photos."""
    if chosen.blur and uniform(0, 1) < 0.5:
        image = from_pillow(to_pillow(image).filter(ImageFilter.GaussianBlur(uniform(0, chosen.blur))))
    if chosen.noise and uniform(0, 1) < 0.5:
        noise = torch.randn(image.shape).mul_(uniform(0, chosen.noise))
        image = noise.add_(image).round_().clamp_(0, 255).to(torch.uint8)
    if chosen.jpeg and uniform(0, 1) < 0.5:
        file = io.BytesIO()
        to_pillow(image).save(file, "JPEG", quality=max(1, round(100 - uniform(0, chosen.jpeg))))
        image = from_pillow(Image.open(file))
    return image


def to_pillow(image: UInt8[Tensor, "3 H W"]) -> Image.Image:
    """Convert a tensor to a Pillow image."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def from_pillow(image: Image.Image) -> UInt8[Tensor, "3 H W"]:
    """Convert a Pillow image to a tensor."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def uniform(low: float, high: float) -> float:
    """A random number between the two."""
    return low + (high - low) * torch.rand(()).item()
