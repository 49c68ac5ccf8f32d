"""What a batch is to learn, made with the batch: from boxes and the shapes of the maps, before the network has run.

The assignments of these methods ask nothing of the predictions. So they are made where the batch is, in a loader's
worker, and the training step has neither their work nor, on a GPU, their waiting for the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from focaldet.boxes.locations import Lattice, Locations
from focaldet.data.batching import Sample, collate
from focaldet.methods.method import Method
from focaldet.methods.positives import Positives, find_positives
from focaldet.models.detector import DenseDetector, map_shapes
from focaldet.structures import Assignment, GroundTruth


class ObjectCounts(NamedTuple):
    """Objects of a batch.

    Args:
        objects: all of them.
        unmatched: those that matched no location.
        beyond_reach: those with a side that the box coding cannot reach from one of their positives.
    """

    objects: int
    unmatched: int
    beyond_reach: int


@dataclass(frozen=True)
class Targets:
    """What the locations of a batch are to learn.

    Args:
        lattice: the locations.
        assignment: the object of each.
        positives: those that have one.
        counts: numbers of objects, known where the targets are made.
    """

    lattice: Lattice
    assignment: Assignment
    positives: Positives
    counts: ObjectCounts

    def to(self, device: torch.device | str) -> "Targets":
        """The same on another device."""
        matched = self.assignment.matched_gt.to(device, non_blocking=True)
        return self._with(matched, self.positives.to(device))

    def pin_memory(self) -> "Targets":
        """The same where a GPU copies from without waiting."""
        return self._with(self.assignment.matched_gt.pin_memory(), self.positives.pin_memory())

    def _with(self, matched: Tensor, positives: Positives) -> "Targets":
        return Targets(self.lattice, Assignment(matched), positives, self.counts)


def make_targets(method: Method, truth: GroundTruth, lattice: Lattice, image_sizes: Int64[Tensor, "B 2"]) -> Targets:
    """The targets of a batch.

    Args:
        image_sizes: (height, width) of each image without its padding.
    """
    assignment = method.assign(truth, lattice, image_sizes)
    positives = find_positives(truth, assignment, _locations(method, lattice), lattice)
    num_objects = truth.labels.numel()
    num_matched = torch.bincount(positives.gt, minlength=num_objects).count_nonzero()
    beyond = method.beyond_reach(positives)
    counts = ObjectCounts(num_objects, num_objects - int(num_matched), beyond)
    return Targets(lattice, assignment, positives, counts)


@lru_cache(maxsize=16)
def _locations(method: Method, lattice: Lattice) -> Locations:
    """Of all locations. Batches of one size share them."""
    return method.locations(lattice)


class TrainingBatch(NamedTuple):
    """A ``Batch`` with its targets.

    Args:
        images, valid_sizes, truth: as in ``Batch``.
        targets: ``None``: to be made in the step.
    """

    images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"]
    valid_sizes: Int64[Tensor, "B 2"]
    truth: GroundTruth
    targets: Targets | None = None


class TargetCollate:
    """``collate`` that makes the targets too, in whichever process it is called. It goes to a worker without a network.

    Args:
        method: assigns.
        net: whose maps it is for.
        offset: centre of a cell, in strides.
    """

    def __init__(self, method: Method, net: DenseDetector, offset: float) -> None:
        self.method, self.strides, self.pad_to, self.offset = method, net.strides, net.pad_to, offset

    def __call__(self, samples: Sequence[Sample]) -> TrainingBatch:
        batch = collate(samples)
        shapes = map_shapes(batch.images.shape[2], batch.images.shape[3], self.strides, self.pad_to)
        lattice = Lattice(shapes, self.strides, self.offset)
        return TrainingBatch(*batch, make_targets(self.method, batch.truth, lattice, batch.valid_sizes))
