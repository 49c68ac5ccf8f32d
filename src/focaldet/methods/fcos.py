"""FCOS (Tian et al., ICCV 2019, arXiv 1904.01355), with centre sampling and GIoU.

| per location | assignment    | box coding | class loss | box loss, extra          |
|--------------|---------------|------------|------------|--------------------------|
| 1 point      | centre region | distances  | focal      | GIoU, centerness BCE     |

    L = 1/N_pos ( sum_all FL + sum_pos BCE(centerness) ) + 1/N_c sum_pos c GIoU

``c`` is the centerness target of a location, and ``N_c`` the sum of these targets. With quality focal loss, the score
already measures the quality of the box. Then there is no centerness branch, and the score weights the boxes, as in GFL.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from focaldet.assign.center_region import assign_center_region
from focaldet.boxes.coding import MAX_LOG_SIDE, decode_distances
from focaldet.boxes.locations import Lattice, Locations
from focaldet.methods.centerness import CenternessMethod
from focaldet.structures import Assignment, GroundTruth


@dataclass(frozen=True, kw_only=True)
class FCOS(CenternessMethod):
    """The method.

    Args:
        radius: half the side of the centre region, in strides; ``None`` for the whole box.
        distances: function from box parameters to distances: ``"relu"`` as in the authors' later code, or ``"exp"`` as
            in the paper (docs/adr/0011).
        unit: unit of the distances: strides of the level, or pixels as in the first version of the paper.
    """

    radius: float | None = 1.5
    distances: Literal["relu", "exp"] = "relu"
    unit: Literal["stride", "px"] = "stride"

    def assign(self, truth: GroundTruth, lattice: Lattice, image_sizes: Tensor | None = None) -> Assignment:
        return assign_center_region(truth, lattice, radius=self.radius, image_sizes=image_sizes)

    def decode(self, box_params: Tensor, locations: Locations) -> tuple[Tensor, None]:
        # The bound of thousands of strides prevents infinite distances, whose gradient would be NaN.
        distances = box_params.clamp(max=2 * MAX_LOG_SIDE).exp() if self.distances == "exp" else box_params.relu()
        if self.unit == "px":
            distances = distances / locations.strides[:, None]
        return decode_distances(locations.points_xy, locations.strides, distances), None
