"""What travels between the parts, as frozen dataclasses with documented shapes.

Axes: B images, L levels, P prediction locations (all levels, level by level, row by row), G ground-truth boxes of the
whole batch, R ignored regions of the whole batch, C classes, N detections.

There is no background class and no 1-based index anywhere: classes are 0 .. C-1, and the two labels that are not a
class have names.
"""

from dataclasses import dataclass

from jaxtyping import Float, Int64, Integer
from torch import Tensor

BACKGROUND = -1
"""Label, or matched object, of a location that belongs to no object: a negative sample."""

IGNORED = -2
"""Label, or matched object, of a location that takes no part in the loss."""


@dataclass(frozen=True)
class SparseTargets:
    """Targets of the sigmoid losses as a detector has them: one class (or none) for each location.

    It stands for a dense ``(..., C)`` tensor that is zero everywhere but at the location's class, where it is 1, or
    ``quality`` when that is given; nothing of that size is built.

    Args:
        labels: ``(...)`` int64 or int32, the logits' shape without the class axis. A class in ``[0, C)``,
            ``BACKGROUND`` (-1: every class is a negative) or ``IGNORED`` (-2: no loss, no gradient).
        quality: ``(...)`` float in ``[0, 1]``, the target of the location's own class: in quality focal loss, the IoU
            of the predicted box with its object. Read only where a label is a class. ``None`` means 1.
    """

    labels: Integer[Tensor, "..."]
    quality: Float[Tensor, "..."] | None = None


@dataclass(frozen=True)
class GroundTruth:
    """The objects of a batch, all images in one list, so that no step needs a loop over images.

    Args:
        boxes_xyxy: ``(G, 4)`` float32, pixels of the network's input.
        labels: ``(G,)`` int64 in ``[0, C)``.
        image_index: ``(G,)`` int64 in ``[0, B)``, not decreasing.
        num_images: B; images without an object count too.
        ignored_xyxy: ``(R, 4)`` float32, regions whose content is not known (crowds): no positives, no negatives.
        ignored_image_index: ``(R,)`` int64 in ``[0, B)``.
    """

    boxes_xyxy: Float[Tensor, "G 4"]
    labels: Int64[Tensor, " G"]
    image_index: Int64[Tensor, " G"]
    num_images: int
    ignored_xyxy: Float[Tensor, "R 4"]
    ignored_image_index: Int64[Tensor, " R"]

    def to(self, device: str) -> "GroundTruth":
        """The same objects on another device."""
        return GroundTruth(
            self.boxes_xyxy.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.image_index.to(device, non_blocking=True),
            self.num_images,
            self.ignored_xyxy.to(device, non_blocking=True),
            self.ignored_image_index.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Assignment:
    """Which object each prediction location is to find.

    Args:
        matched_gt: ``(B, P)`` int64: an index into the batch's ``GroundTruth``, ``BACKGROUND`` or ``IGNORED``.
    """

    matched_gt: Int64[Tensor, "B P"]


@dataclass(frozen=True)
class HeadOutputs:
    """What the head says of each level, as raw maps.

    Args:
        class_logits: L maps ``(B, A * C, H, W)`` (A anchors a location).
        box_maps: L maps ``(B, A * D, H, W)``; what the D parameters of a box mean is the method's box coding.
        quality_logits: L maps ``(B, A, H, W)`` of a separate quality branch (centerness), or ``None``.
    """

    class_logits: list[Float[Tensor, "B AC _ _"]]
    box_maps: list[Float[Tensor, "B AD _ _"]]
    quality_logits: list[Float[Tensor, "B A _ _"]] | None = None

    @property
    def level_shapes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of every level."""
        return tuple((x.shape[-2], x.shape[-1]) for x in self.class_logits)  # not int(): an export's are symbols


@dataclass(frozen=True)
class Detections:
    """The objects found in one image, best first.

    Args:
        boxes_xyxy: ``(N, 4)`` float32, pixels.
        scores: ``(N,)`` float32 in ``[0, 1]``, not increasing.
        labels: ``(N,)`` int64 in ``[0, C)``.
        side_std_px: ``(N, 4)`` float32, the standard deviation in pixels of each side's predicted distribution (left,
            top, right, bottom), or ``None`` for a method whose sides are single numbers.
    """

    boxes_xyxy: Float[Tensor, "N 4"]
    scores: Float[Tensor, " N"]
    labels: Int64[Tensor, " N"]
    side_std_px: Float[Tensor, "N 4"] | None = None

    def __len__(self) -> int:
        return int(self.scores.shape[0])

    def __getitem__(self, index: Tensor | slice) -> "Detections":
        """Some of them."""
        deviation = None if self.side_std_px is None else self.side_std_px[index]
        return Detections(self.boxes_xyxy[index], self.scores[index], self.labels[index], deviation)
