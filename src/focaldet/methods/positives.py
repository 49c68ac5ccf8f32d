"""The positive samples of a batch: the locations that are assigned an object, and their objects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from focaldet.assign.task_aligned import Candidates
from focaldet.boxes.level_index import LevelIndex, level_index
from focaldet.boxes.locations import Lattice, Locations, gather_locations
from focaldet.structures import Assignment, GroundTruth


@dataclass(frozen=True)
class Positives:
    """N positive samples.

    Args:
        image, location, gt: ``(N,)`` indices of the image, of the location in lattice order, and of the object.
        locations: geometry of the locations.
        boxes_xyxy, labels: ``(N, 4)`` and ``(N,)``, boxes and labels of the objects.
        index: their positions in the maps, if known in advance; else they are computed in the step.
    """

    image: Int64[Tensor, " N"]
    location: Int64[Tensor, " N"]
    gt: Int64[Tensor, " N"]
    locations: Locations
    boxes_xyxy: Float[Tensor, "N 4"]
    labels: Int64[Tensor, " N"]
    index: LevelIndex | None = None

    def gather(self, maps: Sequence[Tensor], channels: int) -> Float[Tensor, "N D"]:
        """The outputs of the maps ``(B, A * D, H, W)`` at each positive."""
        if self.index is None:
            return gather_locations(maps, channels, self.image, self.location)
        return self.index.gather(maps, channels)

    def __getitem__(self, index: Int64[Tensor, " K"]) -> "Positives":
        """A subset of them."""
        image, location, gt, boxes, labels = (
            x[index] for x in (self.image, self.location, self.gt, self.boxes_xyxy, self.labels)
        )
        return Positives(image, location, gt, self.locations[index], boxes, labels)

    def to(self, device: torch.device | str) -> "Positives":
        """A copy on another device."""
        index = None if self.index is None else self.index.to(device)
        return self._each(lambda x: x.to(device, non_blocking=True), index)

    def pin_memory(self) -> "Positives":
        """A copy in pinned memory, from which a GPU copies without waiting."""
        return self._each(Tensor.pin_memory, None if self.index is None else self.index.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor], index: LevelIndex | None) -> "Positives":
        anchors = self.locations.anchors_xyxy
        locations = Locations(
            change(self.locations.points_xy),
            change(self.locations.strides),
            None if anchors is None else change(anchors),
        )
        image, location, gt = change(self.image), change(self.location), change(self.gt)
        return Positives(image, location, gt, locations, change(self.boxes_xyxy), change(self.labels), index)


def find_positives(
    truth: GroundTruth, assignment: Assignment, locations: Locations, lattice: Lattice | None = None
) -> Positives:
    """The positives of an assignment over all ``locations`` of the pyramid, with their positions in the maps if the
    lattice is given."""
    matched = assignment.matched_gt
    image, location = (matched >= 0).nonzero(as_tuple=True)
    gt = matched[image, location]
    index = None
    if lattice is not None:
        index = level_index(lattice.level_shapes, matched.shape[1] // lattice.num_locations, image, location)
    return Positives(image, location, gt, locations[location], truth.boxes_xyxy[gt], truth.labels[gt], index)


def as_positives(truth: GroundTruth, candidates: Candidates, locations: Locations, lattice: Lattice) -> Positives:
    """All candidates of a batch in the form of positives, so that their predictions are gathered in the same way."""
    gt, image, location, _ = candidates
    index = level_index(lattice.level_shapes, 1, image, location)
    return Positives(image, location, gt, locations[location], truth.boxes_xyxy[gt], truth.labels[gt], index)
