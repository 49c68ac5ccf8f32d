"""Photos that lie on their side in the file: EXIF's eight orientations, for pixels and for boxes."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the operation that makes the image upright."""


def turned(stored: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """A photo ``(H, W, 3)`` as stored, upright."""
    return np.array(Image.fromarray(stored).transpose(TRANSPOSE[orientation]))


def upright_boxes(
    boxes_xyxy: NDArray[np.float64], stored_size: tuple[int, int], orientation: int
) -> NDArray[np.float64]:
    """Convert boxes from the stored pixels to the displayed image.

    Args:
        boxes_xyxy: ``(N, 4)`` in stored pixels.
        stored_size: (width, height) of the stored image.
        orientation: EXIF orientation 1 to 8.

    >>> upright_boxes(np.array([[0.0, 0.0, 10.0, 5.0]]), (40, 20), 6)  # a quarter turn clockwise
    array([[15.,  0., 20., 10.]])
    """
    width, height = stored_size
    x1, y1, x2, y2 = boxes_xyxy.T
    corners = {
        1: (x1, y1, x2, y2),
        2: (width - x2, y1, width - x1, y2),
        3: (width - x2, height - y2, width - x1, height - y1),
        4: (x1, height - y2, x2, height - y1),
        5: (y1, x1, y2, x2),
        6: (height - y2, x1, height - y1, x2),
        7: (height - y2, width - x2, height - y1, width - x1),
        8: (y1, width - x2, y2, width - x1),
    }[orientation]
    return np.stack(corners, axis=1)
