"""Row 8 of the story: does the standard deviation of a side predict its error?

Axes: S sides of detections that match an object, K bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from focaldet.evaluation.statistics import rank_correlation
from focaldet.records.study import Deviations
from focaldet.records.study_details import Box, Decile, SideExample
from focaldet.study.scenes import Scene

Floats = NDArray[np.float64]

TENTHS = 10
"""Number of groups in the calibration curve."""

EXAMPLES = 6
"""Number of most certain and of least certain sides on the page."""


@dataclass(frozen=True)
class Sides:
    """S sides, four per box.

    Args:
        deviation_px, error_px: ``(S,)`` predicted standard deviation, and distance from the object's side.
        length_px: ``(S,)`` width of the object (for left and right) or its height (for top and bottom).
    """

    deviation_px: Floats
    error_px: Floats
    length_px: Floats


def deviations(sides: Sides) -> Deviations:
    """Calibration over all sides."""
    error, deviation = sides.error_px, sides.deviation_px
    spread = _rms(deviation)
    return Deviations(
        sides=len(error),
        correlation=rank_correlation(deviation, error),
        correlation_relative=rank_correlation(deviation / sides.length_px, error / sides.length_px),
        ratio=round(_rms(error) / spread, 6) if spread else None,
        within_1=round(float((error <= deviation).mean()), 6) if len(error) else None,
        within_2=round(float((error <= 2 * deviation).mean()), 6) if len(error) else None,
    )


def deciles(sides: Sides) -> list[Decile]:
    """The sides in ten groups, by increasing standard deviation; empty groups are left out.

    >>> sides = Sides(np.arange(1.0, 21), np.arange(1.0, 21), np.ones(20))
    >>> deciles(sides)[0]  # 1 and 2
    {'sides': 2, 'deviation_px': 1.581, 'error_px': 1.581}
    """
    groups = np.array_split(np.argsort(sides.deviation_px, kind="stable"), TENTHS)
    return [
        Decile(
            sides=len(group),
            deviation_px=round(_rms(sides.deviation_px[group]), 3),
            error_px=round(_rms(sides.error_px[group]), 3),
        )
        for group in groups
        if len(group)
    ]


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(values**2))) if len(values) else 0.0


def side_errors(boxes_xyxy: Float[Tensor, "N 4"], gt_xyxy: Float[Tensor, "N 4"]) -> Float[Tensor, "N 4"]:
    """Absolute error of each side (left, top, right, bottom) in pixels."""
    return (boxes_xyxy - gt_xyxy).abs()


class DeviationMeasure:
    """Collect the sides of all photos of a split."""

    def __init__(self) -> None:
        self.deviation: list[Tensor] = []
        self.error: list[Tensor] = []
        self.length: list[Tensor] = []
        self.examples: list[SideExample] = []
        self.scores: list[float] = []

    def add(self, scene: Scene, boxes: Sequence[Box]) -> None:
        """Add a photo.

        Args:
            scene: the photo.
            boxes: its detections for the page, in the same order.
        """
        found = scene.detections
        if found.side_std_px is None:
            return
        gt = scene.found_objects
        right = (gt >= 0).nonzero()[:, 0]
        objects = scene.gt_xyxy[gt[right]]
        errors = side_errors(found.boxes_xyxy[right], objects)
        deviation = found.side_std_px[right]
        sides = objects[:, 2:] - objects[:, :2]
        self.error.append(errors.flatten())
        self.deviation.append(deviation.flatten())
        self.length.append(sides.repeat(1, 2).flatten())
        bins = deviation / scene.strides_xy[scene.candidates.location[scene.kept[right]]].repeat(1, 2)
        for place, index in enumerate(right.tolist()):
            for side in (int(bins[place].argmin()), int(bins[place].argmax())):
                self.scores.append(float(found.scores[index]))
                self.examples.append(
                    SideExample(
                        image_id=scene.image_id,
                        box=boxes[index],
                        side=side,
                        std_bins=round(float(bins[place, side]), 3),
                        error_px=round(float(errors[place, side]), 2),
                        object_xyxy=[round(x, 2) for x in objects[place].tolist()],
                    )
                )

    def sides(self) -> Sides | None:
        """All sides so far; ``None`` if the boxes have no distributions."""
        if not self.deviation:
            return None
        numbers = (torch.cat(values).double().numpy() for values in (self.deviation, self.error, self.length))
        return Sides(*numbers)

    def extremes(self) -> tuple[list[SideExample], list[SideExample]]:
        """The most and the least certain sides, at most one per photo, from the better half of the boxes."""
        if not self.examples:
            return [], []
        median = float(np.median(self.scores))
        better = [example for example, score in zip(self.examples, self.scores, strict=True) if score >= median]
        better.sort(key=lambda example: example["std_bins"])
        return _one_a_photo(better), _one_a_photo(better[::-1])


def _one_a_photo(examples: Sequence[SideExample]) -> list[SideExample]:
    chosen: dict[int | str, SideExample] = {}
    for example in examples:
        chosen.setdefault(example["image_id"], example)
    return list(chosen.values())[:EXAMPLES]
