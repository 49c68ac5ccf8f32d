"""Training targets, made with the batch: from boxes and the shapes of the maps, before the network runs.

The assignments of these methods do not depend on the predictions. So the worker that loads a batch makes them. This
saves the training step the work and, on a GPU, waits for the device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from focaldet.boxes.locations import Lattice, Locations
from focaldet.data.batching import Sample, collate
from focaldet.methods.method import Method
from focaldet.methods.positives import Positives, as_positives, find_positives
from focaldet.models.detector import DenseDetector, map_shapes
from focaldet.structures import Assignment, GroundTruth, HeadOutputs


class ObjectCounts(NamedTuple):
    """Numbers of objects in a batch.

    Args:
        objects: all objects.
        unmatched: objects that match no location.
        beyond_reach: objects with a side that the box coding cannot represent from one of their positives.
    """

    objects: int
    unmatched: int
    beyond_reach: int


@dataclass(frozen=True)
class Targets:
    """Training targets of a batch.

    Args:
        lattice: the locations.
        assignment: the object of each location.
        positives: the locations with an object.
        counts: numbers of objects.
        candidates: pairs of an object and a location, if predictions choose among them.
        unmatched: for the candidates: all locations, as background or ignored.
        valuable: locations around the positives at which a teacher, if any, also teaches.
    """

    lattice: Lattice
    assignment: Assignment
    positives: Positives
    counts: ObjectCounts
    candidates: Positives | None = None
    unmatched: Assignment | None = None
    valuable: Positives | None = None

    def to(self, device: torch.device | str) -> "Targets":
        """A copy on another device."""
        return self._each(lambda x: x.to(device, non_blocking=True), lambda x: x.to(device))

    def pin_memory(self) -> "Targets":
        """A copy in pinned memory, from which a GPU copies without waiting."""
        return self._each(Tensor.pin_memory, Positives.pin_memory)

    def _each(self, tensor: Callable[[Tensor], Tensor], positives: Callable[[Positives], Positives]) -> "Targets":
        return Targets(
            self.lattice,
            Assignment(tensor(self.assignment.matched_gt)),
            positives(self.positives),
            self.counts,
            None if self.candidates is None else positives(self.candidates),
            None if self.unmatched is None else Assignment(tensor(self.unmatched.matched_gt)),
            None if self.valuable is None else positives(self.valuable),
        )


def make_targets(method: Method, truth: GroundTruth, lattice: Lattice, image_sizes: Int64[Tensor, "B 2"]) -> Targets:
    """The targets of a batch.

    Args:
        image_sizes: (height, width) of each image without its padding.
    """
    assignment = method.assign(truth, lattice, image_sizes)
    positives = find_positives(truth, assignment, _locations(method, lattice), lattice)
    num_objects = truth.labels.numel()
    found = method.candidates(truth, lattice, image_sizes)
    # Where predictions choose from the start, an object with a candidate counts as matched.
    learning = positives.gt if found is None or method.warm_up else found.gt
    num_matched = torch.bincount(learning, minlength=num_objects).count_nonzero()
    beyond = method.beyond_reach(positives)
    counts = ObjectCounts(num_objects, num_objects - int(num_matched), beyond)
    if found is None:
        return Targets(lattice, assignment, positives, counts)
    candidates = as_positives(truth, found, _locations(method, lattice), lattice)
    return Targets(lattice, assignment, positives, counts, candidates, found.unmatched)


def losses_of(method: Method, outputs: HeadOutputs, targets: Targets, progress: float) -> dict[str, Tensor]:
    """The loss terms of a batch.

    Args:
        progress: completed share of the training. After a method's warm-up, predictions choose among the candidates.
    """
    if targets.candidates is None or targets.unmatched is None or progress < method.warm_up:
        return method.losses(outputs, targets.assignment, targets.positives)
    return method.losses_of_candidates(outputs, targets.unmatched, targets.candidates)


@lru_cache(maxsize=16)
def _locations(method: Method, lattice: Lattice) -> Locations:
    """Geometry of all locations, shared by batches of the same size."""
    return method.locations(lattice)


class TrainingBatch(NamedTuple):
    """A ``Batch`` with its targets.

    Args:
        images, valid_sizes, truth: as in ``Batch``.
        targets: ``None`` if the training step makes them.
    """

    images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"]
    valid_sizes: Int64[Tensor, "B 2"]
    truth: GroundTruth
    targets: Targets | None = None


class TargetCollate:
    """Collates samples and makes their targets, in any process; it is sent to workers without the network.

    Args:
        method: makes the assignment.
        net: network whose maps the targets are for.
        offset: centre of a cell, in strides.
    """

    def __init__(self, method: Method, net: DenseDetector, offset: float) -> None:
        self.method, self.strides, self.pad_to, self.offset = method, net.strides, net.pad_to, offset

    def __call__(self, samples: Sequence[Sample]) -> TrainingBatch:
        batch = collate(samples)
        shapes = map_shapes(batch.images.shape[2], batch.images.shape[3], self.strides, self.pad_to)
        lattice = Lattice(shapes, self.strides, self.offset)
        return TrainingBatch(*batch, make_targets(self.method, batch.truth, lattice, batch.valid_sizes))
