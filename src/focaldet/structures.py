"""Data passed between the parts of a detector: frozen dataclasses with documented shapes.

Axes: B images, L levels, P locations (level by level, row by row; one entry per anchor if a location has several),
G ground-truth boxes of the whole batch, R ignore regions of the whole batch, C classes, N detections.

There is no background class and no 1-based index. Classes are 0 .. C-1; the two labels that are not classes have names.
"""

from dataclasses import dataclass

from jaxtyping import Float, Int64, Integer
from torch import Tensor

BACKGROUND = -1
"""Label, or matched object, of a location without an object: a negative sample."""

IGNORED = -2
"""Label, or matched object, of a location that is excluded from the loss."""


@dataclass(frozen=True)
class SparseTargets:
    """Sparse targets of the sigmoid losses: at most one class per location.

    They represent a dense ``(..., C)`` tensor that is never built: ``quality`` (or 1) at the class of each location, 0
    elsewhere.

    Args:
        labels: ``(...)`` int64 or int32, the logits' shape without the class axis. A class in ``[0, C)``,
            ``BACKGROUND`` (-1: every class is a negative) or ``IGNORED`` (-2: no loss, no gradient).
        quality: ``(...)`` float in ``[0, 1]``, target of the labelled class: in quality focal loss, the IoU of the
            predicted box with its object. Read only where the label is a class. ``None`` means 1.
    """

    labels: Integer[Tensor, "..."]
    quality: Float[Tensor, "..."] | None = None


@dataclass(frozen=True)
class GroundTruth:
    """The objects of a batch. All images share one list, so no step loops over images.

    Args:
        boxes_xyxy: ``(G, 4)`` float32, in pixels of the network input.
        labels: ``(G,)`` int64 in ``[0, C)``.
        image_index: ``(G,)`` int64 in ``[0, B)``, non-decreasing.
        num_images: B, including images without objects.
        ignored_xyxy: ``(R, 4)`` float32, ignore regions (crowds): neither positives nor negatives.
        ignored_image_index: ``(R,)`` int64 in ``[0, B)``.
    """

    boxes_xyxy: Float[Tensor, "G 4"]
    labels: Int64[Tensor, " G"]
    image_index: Int64[Tensor, " G"]
    num_images: int
    ignored_xyxy: Float[Tensor, "R 4"]
    ignored_image_index: Int64[Tensor, " R"]

    def to(self, device: str) -> "GroundTruth":
        """Copy to a device."""
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
    """The object that each location is trained to predict.

    Args:
        matched_gt: ``(B, P)`` int64: an index into the batch's ``GroundTruth``, ``BACKGROUND`` or ``IGNORED``.
    """

    matched_gt: Int64[Tensor, "B P"]


@dataclass(frozen=True)
class HeadOutputs:
    """Raw outputs of the head, one map per level.

    Args:
        class_logits: L maps ``(B, A * C, H, W)``, with A anchors per location.
        box_maps: L maps ``(B, A * D, H, W)``, the D parameters of each box in the method's box coding.
        quality_logits: L maps ``(B, A, H, W)`` of a separate quality branch (such as centerness), or ``None``.
    """

    class_logits: list[Float[Tensor, "B AC _ _"]]
    box_maps: list[Float[Tensor, "B AD _ _"]]
    quality_logits: list[Float[Tensor, "B A _ _"]] | None = None

    @property
    def level_shapes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each level."""
        return tuple((x.shape[-2], x.shape[-1]) for x in self.class_logits)  # not int(): symbolic when exporting


@dataclass(frozen=True)
class Detections:
    """Detections in one image, best first.

    Args:
        boxes_xyxy: ``(N, 4)`` float32, pixels.
        scores: ``(N,)`` float32 in ``[0, 1]``, non-increasing.
        labels: ``(N,)`` int64 in ``[0, C)``.
        side_std_px: ``(N, 4)`` float32, standard deviation of the predicted distribution of each side (left, top,
            right, bottom), in pixels; ``None`` for methods without distributions.
    """

    boxes_xyxy: Float[Tensor, "N 4"]
    scores: Float[Tensor, " N"]
    labels: Int64[Tensor, " N"]
    side_std_px: Float[Tensor, "N 4"] | None = None

    def __len__(self) -> int:
        return int(self.scores.shape[0])

    def __getitem__(self, index: Tensor | slice) -> "Detections":
        """Select detections."""
        deviation = None if self.side_std_px is None else self.side_std_px[index]
        return Detections(self.boxes_xyxy[index], self.scores[index], self.labels[index], deviation)
