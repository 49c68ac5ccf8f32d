"""The positive samples of a batch: locations with an assigned object, and their objects."""

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from focaldet.boxes.locations import Locations
from focaldet.structures import Assignment, GroundTruth


@dataclass(frozen=True)
class Positives:
    """N positive samples.

    Args:
        image, location, gt: ``(N,)`` index of the image, of the location in lattice order, and of the object.
        locations: geometry of the N locations.
        boxes_xyxy, labels: ``(N, 4)`` and ``(N,)``, box and class of the objects.
    """

    image: Int64[Tensor, " N"]
    location: Int64[Tensor, " N"]
    gt: Int64[Tensor, " N"]
    locations: Locations
    boxes_xyxy: Float[Tensor, "N 4"]
    labels: Int64[Tensor, " N"]


def find_positives(truth: GroundTruth, assignment: Assignment, locations: Locations) -> Positives:
    """Collect the positives of an assignment over all ``locations`` of the pyramid."""
    image, location = (assignment.matched_gt >= 0).nonzero(as_tuple=True)
    gt = assignment.matched_gt[image, location]
    return Positives(image, location, gt, locations[location], truth.boxes_xyxy[gt], truth.labels[gt])
