"""The positive samples of a batch: the locations that have an object to find, and what they are to find."""

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from focaldet.boxes.locations import Locations
from focaldet.structures import Assignment, GroundTruth


@dataclass(frozen=True)
class Positives:
    """N positive samples.

    Args:
        image, location, gt: ``(N,)`` the image, the place in the lattice's order, and the object, of each.
        locations: their geometry.
        boxes_xyxy, labels: ``(N, 4)`` and ``(N,)``, of their objects.
    """

    image: Int64[Tensor, " N"]
    location: Int64[Tensor, " N"]
    gt: Int64[Tensor, " N"]
    locations: Locations
    boxes_xyxy: Float[Tensor, "N 4"]
    labels: Int64[Tensor, " N"]


def find_positives(truth: GroundTruth, assignment: Assignment, locations: Locations) -> Positives:
    """The positives of an assignment over all ``locations`` of the pyramid."""
    image, location = (assignment.matched_gt >= 0).nonzero(as_tuple=True)
    gt = assignment.matched_gt[image, location]
    return Positives(image, location, gt, locations[location], truth.boxes_xyxy[gt], truth.labels[gt])
