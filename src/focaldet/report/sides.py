"""Pictures of boxes with the predicted distribution of each side drawn at its position."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from focaldet.evaluation.matching import ImageResult
from focaldet.records.run_files import Json, Run
from focaldet.report import gallery

NAMES = ("left", "top", "right", "bottom")

_SURROUNDINGS = 1.9
_MIN_CUTOUT_PX = 48
_HEIGHT = 0.24  # of the highest probability, relative to the side of the picture
_SEEN = 0.01  # of the highest probability; lower values would only draw a line along the base


@dataclass(frozen=True)
class SidePicture:
    """A box on a cut-out of a photo, with its four distributions.

    Args:
        photo: the cut-out; its panel contains the object and the box.
        curves: (SVG path in pixels of the photo, whether it belongs to the side in question) for each side.
        title: name of the side; words: its standard deviation and its error.
    """

    photo: gallery.Photo
    curves: list[tuple[str, bool]]
    title: str
    words: str


def side_pictures(
    run: Run, results: dict[object, ImageResult], examples: Sequence[Json], names: Sequence[str], key: str
) -> list[SidePicture]:
    """The pictures of ``SideExample`` entries of a study's details.

    Args:
        run: a run whose ground truth has the paths of the photos; results: by image id.
        names: class names; key: unique on the page.
    """
    return [
        _side_picture(run, results[example["image_id"]], example, names, f"{key}{i}")
        for i, example in enumerate(examples)
    ]


def _side_picture(run: Run, result: ImageResult, example: Json, names: Sequence[str], key: str) -> SidePicture:
    box, side = example["box"], int(example["side"])
    corners, truth = (np.array(x, np.float64) for x in (box["box_xyxy"], example["object_xyxy"]))
    window = gallery.window_around(result, np.stack([corners, truth]), _SURROUNDINGS, _MIN_CUTOUT_PX)
    (data,) = gallery.embed_cutouts(gallery.photo_path(run, result), result, [window])
    x, y, width, height = window
    label = int(box["label"])
    std = float(box["side_std_px"][side])
    title = f"{names[label]}, {NAMES[side]} side"
    words = f"standard deviation {std:.1f} px, {example['std_bins']:.2f} bins; off by {example['error_px']:.1f} px"
    drawn = [
        gallery.make_box(truth, label, names, "truth", f"{names[label]}, labelled"),
        gallery.make_box(corners, label, names, "found", f"{names[label]}, score {box['score']:.2f}; {title}: {words}"),
    ]
    panel = gallery.Panel(title, words, drawn)
    name = Path(result.file_name).name
    photo = gallery.Photo(key, name, width, height, data, [panel], x, y)
    return SidePicture(photo, distribution_curves(box, side, _HEIGHT * width), title, words)


def distribution_curves(box: Json, side: int, height_px: float) -> list[tuple[str, bool]]:
    """Draw the distribution of each side of a box, along the direction in which the side can move.

    Left and right are drawn on the box's horizontal centre line, top and bottom on its vertical one. All four share one
    scale, with the highest probability at ``height_px``.
    """
    probabilities = np.array(box["distributions"], np.float64)
    scale = height_px / max(float(probabilities.max()), 1e-9)
    x1, y1, x2, y2 = box["box_xyxy"]
    middle = ((x1 + x2) / 2, (y1 + y2) / 2)
    curves = []
    for i, values in enumerate(probabilities):
        axis, sign = i % 2, 1 if i >= 2 else -1
        along = box["origin_xy"][axis] + sign * box["bin_xy"][axis] * np.arange(len(values))
        base = middle[1 - axis]
        up = base - scale * values if axis == 0 else base + scale * values
        seen = np.flatnonzero(values >= _SEEN * probabilities.max())
        shown = slice(max(int(seen[0]) - 1, 0), int(seen[-1]) + 2)
        points = [(along[shown][0], base), *zip(along[shown], up[shown], strict=True), (along[shown][-1], base)]
        curves.append((_path(points if axis == 0 else [(b, a) for a, b in points]), i == side))
    return curves


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"
