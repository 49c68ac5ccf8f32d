"""The positive samples of a batch: the sites that have an object to find, and what they are to find."""

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from focaldet.boxes.locations import Sites
from focaldet.structures import Assignment, GroundTruth


@dataclass(frozen=True)
class Positives:
    """N positive samples.

    Args:
        image, site, gt: ``(N,)`` the image, the place in the lattice's order, and the object, of each.
        sites: their geometry.
        boxes_xyxy, labels: ``(N, 4)`` and ``(N,)``, of their objects.
    """

    image: Int64[Tensor, " N"]
    site: Int64[Tensor, " N"]
    gt: Int64[Tensor, " N"]
    sites: Sites
    boxes_xyxy: Float[Tensor, "N 4"]
    labels: Int64[Tensor, " N"]


def find_positives(truth: GroundTruth, assignment: Assignment, sites: Sites) -> Positives:
    """The positives of an assignment over all ``sites`` of the pyramid."""
    image, site = (assignment.matched_gt >= 0).nonzero(as_tuple=True)
    gt = assignment.matched_gt[image, site]
    return Positives(image, site, gt, sites[site], truth.boxes_xyxy[gt], truth.labels[gt])
