"""The page of RetinaNet against torchvision's anchors, matcher and losses."""

import pytest
import torch
from scene import LATTICE, TRUTH, losses_of, outputs_of, values
from torch.nn.functional import smooth_l1_loss
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou, generalized_box_iou_loss

from focaldet.boxes.locations import Lattice, flatten_levels
from focaldet.methods.retinanet import RetinaNet
from focaldet.structures import BACKGROUND, IGNORED


def torchvision_anchors(lattice):
    """The anchors that torchvision's RetinaNet has on maps of these sizes."""
    sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (4 * s for s in lattice.strides))
    generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    height, width = (n * lattice.strides[0] for n in lattice.level_shapes[0])
    image = torch.zeros(1, 3, height, width)
    maps = [torch.zeros(1, 1, *shape) for shape in lattice.level_shapes]
    return generator(ImageList(image, [(height, width)]), maps)[0]


@pytest.mark.parametrize("strides", [(8, 16), (8, 16, 32, 64, 128)])
def test_anchors_of_whole_pixels_are_torchvisions(strides):
    lattice = Lattice(tuple((256 // s, 384 // s) for s in strides), strides, offset=0.0)
    assert torch.equal(RetinaNet(whole_px=True).locations(lattice).anchors_xyxy, torchvision_anchors(lattice))


@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
def test_assignment_and_box_term_are_torchvisions(box_loss):
    method = RetinaNet(box_loss=box_loss)
    outputs = outputs_of(method, spread=0.3)
    locations = method.locations(LATTICE)
    assignment = method.assign(TRUTH, LATTICE)
    deltas = flatten_levels(outputs.box_maps, 4).detach()
    expected, num_pos = 0.0, 0
    for image in range(2):
        of_image = (TRUTH.image_index == image).nonzero()[:, 0]
        boxes = TRUTH.boxes_xyxy[of_image]
        match = Matcher(0.5, 0.4, allow_low_quality_matches=True)(box_iou(boxes, locations.anchors_xyxy))
        ours = assignment.matched_gt[image]
        assert torch.equal(ours == BACKGROUND, match == Matcher.BELOW_LOW_THRESHOLD)
        assert torch.equal(ours == IGNORED, match == Matcher.BETWEEN_THRESHOLDS)
        positive = match >= 0
        assert torch.equal(ours[positive], of_image[match[positive]])
        anchors, gt, found = locations.anchors_xyxy[positive], boxes[match[positive]], deltas[image, positive]
        if box_loss == "smooth_l1":
            target = BoxCoder((1.0, 1.0, 1.0, 1.0)).encode_single(gt, anchors)
            expected += float(smooth_l1_loss(found, target, beta=1 / 9, reduction="sum"))
        else:
            box = BoxCoder((1.0, 1.0, 1.0, 1.0)).decode_single(found, anchors)
            expected += 2 * float(generalized_box_iou_loss(box, gt, reduction="sum"))
        num_pos += int(positive.sum())
    assert num_pos > 4
    assert values(losses_of(method, outputs, TRUTH, assignment))["box"] == pytest.approx(expected / num_pos, rel=1e-5)
