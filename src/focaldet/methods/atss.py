"""ATSS (Zhang et al., CVPR 2020, arXiv 1912.02424).

| per location | assignment | box coding | class loss | box loss, extra          |
|--------------|------------|------------|------------|--------------------------|
| 1 anchor     | ATSS       | deltas     | focal      | GIoU, centerness BCE     |

    L = 1/N_pos ( sum_all FL + sum_pos BCE(centerness) ) + 1/N_c sum_pos c ( 2 GIoU )

``c`` is the centerness target of a location, and ``N_c`` the sum of these targets. With quality focal loss, the score
already measures the quality of the box. Then there is no centerness branch, and the score weights the boxes, as in GFL.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from focaldet.assign.atss import assign_atss
from focaldet.boxes.coding import decode_deltas
from focaldet.boxes.formats import square_boxes
from focaldet.boxes.locations import Lattice, Locations
from focaldet.methods.centerness import CenternessMethod
from focaldet.structures import Assignment, GroundTruth


@dataclass(frozen=True, kw_only=True)
class ATSS(CenternessMethod):
    """The method.

    Args:
        top_k: number of candidates per level.
        anchor_scale: side of the anchor, in strides.
        stds: divisors of the deltas (centre x, y, logarithms of width, height).
    """

    giou_weight: float = 2.0
    top_k: int = 9
    anchor_scale: float = 8.0
    stds: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)

    def locations(self, lattice: Lattice, device: torch.device | str | None = None) -> Locations:
        points, strides = lattice.points(device), lattice.location_strides(device)
        return Locations(points, strides, square_boxes(points, self.anchor_scale * strides))

    def assign(self, truth: GroundTruth, lattice: Lattice, image_sizes: Tensor | None = None) -> Assignment:
        return assign_atss(truth, lattice, top_k=self.top_k, anchor_scale=self.anchor_scale, image_sizes=image_sizes)

    def decode(self, box_params: Tensor, locations: Locations) -> tuple[Tensor, None]:
        assert locations.anchors_xyxy is not None
        return decode_deltas(locations.anchors_xyxy, box_params, self.stds), None
