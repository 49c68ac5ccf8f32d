"""Scenes for the assignments: pyramids, batches of objects, and the textbook assignment of each image."""

import math

import numpy as np
import torch
from hypothesis import strategies as st

from focaldet.boxes.locations import Lattice
from focaldet.structures import IGNORED, GroundTruth

STRIDES = (8, 16, 32, 64, 128)


def lattice_of(height, width, strides=STRIDES, offset=0.5):
    return Lattice(tuple((math.ceil(height / s), math.ceil(width / s)) for s in strides), strides, offset)


def truth_of(*images, ignored=(), ignored_image=()):
    """The objects of a batch, from the boxes of each of its images."""
    boxes = [torch.as_tensor(np.asarray(image, np.float32)).reshape(-1, 4) for image in images]
    index = torch.cat([torch.full((len(b),), i) for i, b in enumerate(boxes)])
    return GroundTruth(
        torch.cat(boxes),
        torch.zeros_like(index),
        index,
        len(images),
        torch.as_tensor(ignored, dtype=torch.float32).reshape(-1, 4),
        torch.as_tensor(ignored_image, dtype=torch.int64),
    )


def by_image(textbook, truth, lattice, **options):
    """A textbook's answer for every image of a batch, its objects counted over the batch."""
    rows, first = [], 0
    for image in range(truth.num_images):
        boxes = truth.boxes_xyxy[truth.image_index == image].numpy()
        matched = textbook(boxes, lattice.level_shapes, lattice.strides, offset=lattice.offset, **options)
        rows.append(np.where(matched >= 0, matched + first, matched))
        first += len(boxes)
    return torch.as_tensor(np.stack(rows))


def random_size(rng, smallest, largest):
    """Height and width, log-uniform."""
    return tuple(int(x) for x in np.exp(rng.uniform(math.log(smallest), math.log(largest), 2)))


def random_boxes(rng, count, height, width):
    """Objects whose centre is in the image: log-uniform sides from under a pixel to twice the image, many on a grid
    (ties), on the border, or copies of each other."""
    center = rng.uniform(0, 1, (count, 2)) * (width, height)
    side = np.exp(rng.uniform(math.log(0.5), math.log(2 * max(height, width)), (count, 2)))
    on_grid, square = rng.random(count) < 0.3, rng.random(count) < 0.3
    side[square, 1] = side[square, 0]
    center[on_grid], side[on_grid] = np.round(center[on_grid] / 4) * 4, np.ceil(side[on_grid] / 8) * 8
    corner = rng.random(count) < 0.1
    center[corner] = rng.integers(0, 2, (int(corner.sum()), 2)) * (width, height)
    cut = rng.random(count) < 0.4  # most objects that leave the image are cut at its border
    boxes = np.concatenate([center - side / 2, center + side / 2], axis=1)
    boxes[cut] = boxes[cut].clip(0, (width, height, width, height))
    copies = rng.random(count) < 0.15
    boxes[copies] = boxes[rng.integers(0, max(count, 1), int(copies.sum()))]
    return boxes.astype(np.float32)


def check_padded(assign, textbook, seed, num_anchors=1):
    """Images of several sizes in one batch: what is padded is ignored, and each has the assignment that it has alone.

    ``assign(truth, lattice, image_sizes)`` gives ``(B, P anchors)``, ``textbook(truth, lattice)`` what is right.
    """
    rng = np.random.default_rng(seed)
    sizes = [random_size(rng, 1, 300) for _ in range(4)]
    images = [random_boxes(rng, int(rng.choice([1, 20])), *size) for size in sizes]
    padded = lattice_of(*np.max(sizes, axis=0))
    matched = assign(truth_of(*images), padded, torch.tensor(sizes))
    first = 0
    for row, inside, boxes, size in zip(matched, padded.inside(torch.tensor(sizes)), images, sizes, strict=True):
        alone, inside = textbook(truth_of(boxes), lattice_of(*size))[0], inside.repeat_interleave(num_anchors)
        assert torch.equal(row[inside], torch.where(alone >= 0, alone + first, alone))
        assert bool((row[~inside] == IGNORED).all())
        first += len(boxes)


@st.composite
def tied_scenes(draw):
    """Small pyramids of any levels, objects on the half-pixel grid of the locations, where ties are the rule."""
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    strides = draw(st.sampled_from([(8,), (16,), (8, 16), (4, 8, 64), STRIDES]))
    lattice = lattice_of(height, width, strides, draw(st.sampled_from([0.0, 0.5])))
    box = st.tuples(
        st.integers(0, 4 * width), st.integers(0, 4 * height), st.integers(1, 400), st.integers(1, 400)
    ).map(lambda b: [b[0] / 4 - b[2] / 8, b[1] / 4 - b[3] / 8, b[0] / 4 + b[2] / 8, b[1] / 4 + b[3] / 8])
    images = draw(st.lists(st.lists(box, max_size=6), min_size=1, max_size=2))
    return lattice, truth_of(*images)
