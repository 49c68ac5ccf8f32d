"""A small pyramid with objects, for the pages of the methods."""

from dataclasses import replace

import torch

from focaldet.boxes.locations import Lattice
from focaldet.methods.positives import find_positives
from focaldet.structures import BACKGROUND, Assignment, GroundTruth, HeadOutputs

LATTICE = Lattice(((6, 8), (3, 4)), (8, 16))
NUM_CLASSES = 3


def random_maps(generator, batch, channels, spread):
    return [
        (torch.randn(batch, channels, *shape, generator=generator) * spread).requires_grad_()
        for shape in LATTICE.level_shapes
    ]


def outputs_of(method, seed=0, batch=2, spread=1.0):
    """Random outputs in the shape of the method's head, with gradients on every map."""
    generator, num_anchors = torch.Generator().manual_seed(seed), method.anchors_per_location
    class_logits = random_maps(generator, batch, num_anchors * NUM_CLASSES, spread)
    box_maps = random_maps(generator, batch, num_anchors * method.num_box_channels, spread)
    if getattr(method, "distances", None) == "relu":  # a negative number is a distance of 0, without a gradient
        for level in box_maps:
            level.data.abs_()
    quality_logits = None if method.quality_branch == "none" else random_maps(generator, batch, num_anchors, spread)
    return HeadOutputs(class_logits, box_maps, quality_logits)


def truth_of(boxes, labels, image_index, num_images=2):
    return GroundTruth(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(image_index, dtype=torch.int64),
        num_images,
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
    )


TRUTH = truth_of([[3.0, 4, 40, 44], [30, 2, 62, 20], [0, 0, 64, 48]], [2, 0, 1], [0, 0, 1])


def assignment_of(locations, num_anchors=1, batch=2):
    """An assignment from {(image, location): object}."""
    matched = torch.full((batch, LATTICE.num_locations * num_anchors), BACKGROUND)
    for (image, location), gt in locations.items():
        matched[image, location] = gt
    return Assignment(matched)


def losses_of(method, outputs, truth, assignment):
    """The losses; an equalized loss starts without memory each time."""
    method = replace(method)
    return method.losses(outputs, assignment, find_positives(truth, assignment, method.locations(LATTICE)))


def values(losses):
    return {name: float(value.detach()) for name, value in losses.items()}
