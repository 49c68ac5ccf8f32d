"""RetinaNet (Lin et al., ICCV 2017, arXiv 1708.02002).

| per location | assignment | box coding | class loss | box loss            |
|--------------|------------|------------|------------|---------------------|
| 9 anchors    | max IoU    | deltas     | focal      | smooth L1 (or GIoU) |

    L = 1/N_pos ( sum_all FL + sum_pos box )
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from focaldet.assign.max_iou import assign_max_iou
from focaldet.boxes.anchors import RETINANET_RATIOS, RETINANET_SCALES, anchor_shapes, grid_anchors
from focaldet.boxes.coding import decode_deltas, encode_deltas
from focaldet.boxes.iou import paired_iou
from focaldet.boxes.locations import Lattice, Locations
from focaldet.methods.box_loss import BoxLoss
from focaldet.methods.method import Method, count_positives
from focaldet.methods.positives import Positives
from focaldet.structures import Assignment, GroundTruth, HeadOutputs


@dataclass(frozen=True, kw_only=True)
class RetinaNet(Method):
    """The method.

    Args:
        box_loss: smooth L1 on the deltas of the positives, or a loss of their boxes.
        smooth_l1_beta: error below which smooth L1 is quadratic; 0 for plain L1.
        giou_weight: weight of the loss of boxes.
        stds: divisors of the deltas (centre x, y, logarithms of width, height).
        positive_iou, negative_iou: anchors are positive from the first on, background below the second, and ignored in
            between.
        whole_px: round anchors to whole pixels as torchvision does.
    """

    box_loss: BoxLoss | Literal["smooth_l1"] = "smooth_l1"  # type: ignore[assignment]
    smooth_l1_beta: float = 1 / 9
    stds: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    positive_iou: float = 0.5
    negative_iou: float = 0.4
    whole_px: bool = False

    anchors_per_location = len(RETINANET_SCALES) * len(RETINANET_RATIOS)

    @property
    def num_box_channels(self) -> int:
        return 4

    def shapes(self, lattice: Lattice) -> Tensor:
        """Widths and heights ``(L, 9, 2)`` of the anchors of each level, pixels."""
        return anchor_shapes(lattice.strides, whole_px=self.whole_px)

    def locations(self, lattice: Lattice, device: torch.device | str | None = None) -> Locations:
        anchors = grid_anchors(lattice, self.shapes(lattice).to(device))
        repeat = self.anchors_per_location
        points, strides = lattice.points(device), lattice.location_strides(device)
        return Locations(points.repeat_interleave(repeat, 0), strides.repeat_interleave(repeat), anchors)

    def assign(self, truth: GroundTruth, lattice: Lattice, image_sizes: Tensor | None = None) -> Assignment:
        return assign_max_iou(
            truth,
            lattice,
            self.shapes(lattice).to(truth.boxes_xyxy.device),
            positive_iou=self.positive_iou,
            negative_iou=self.negative_iou,
            image_sizes=image_sizes,
        )

    def losses(self, outputs: HeadOutputs, assignment: Assignment, positives: Positives) -> dict[str, Tensor]:
        anchors, gt_boxes = positives.locations.anchors_xyxy, positives.boxes_xyxy
        assert anchors is not None
        deltas = positives.gather(outputs.box_maps, self.num_box_channels).float()
        boxes = decode_deltas(anchors, deltas, self.stds)
        iou = paired_iou(boxes.detach(), gt_boxes)
        num_pos = count_positives(positives)
        if self.box_loss != "smooth_l1":
            box = self.box_term(boxes, gt_boxes, None, num_pos)
        else:
            targets = encode_deltas(anchors, gt_boxes, self.stds)
            box = smooth_l1_loss(deltas, targets, beta=self.smooth_l1_beta, reduction="sum") / num_pos
        return {"class": self.class_term(outputs.class_logits, assignment, positives, iou), "box": box}

    def decode(self, box_params: Tensor, locations: Locations) -> tuple[Tensor, None]:
        assert locations.anchors_xyxy is not None
        return decode_deltas(locations.anchors_xyxy, box_params, self.stds), None
