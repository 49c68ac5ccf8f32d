"""The teacher of a run (``--teacher``): a trained detector that provides distributions and scores to learn from.

It is not part of the trained module: no checkpoint contains it, no optimiser changes it, and the student needs it only
during training.
"""

from pathlib import Path

import torch
from torch import Tensor

from focaldet.checks import InputError, first_names
from focaldet.engine.detector import Detector
from focaldet.engine.hub import is_on_hub, local_run
from focaldet.engine.spec import METHODS, ModelSpec
from focaldet.methods.distillation import Distillation, TaughtCollate
from focaldet.methods.gfl import GFL
from focaldet.methods.method import Method
from focaldet.methods.targets import TargetCollate, Targets, TrainingBatch
from focaldet.models.detector import DenseDetector
from focaldet.structures import HeadOutputs

WITH_DISTRIBUTIONS = tuple(name for name, method in METHODS.items() if issubclass(method, GFL))
"""Methods that can teach and be taught."""


class Teacher:
    """A frozen network in evaluation mode, with the losses that a student learns from.

    Args:
        detector: the teacher.
        class_names: the student's classes; the teacher knows all of them.
        parts: number of parts in which a batch passes through the network.
    """

    def __init__(self, detector: Detector, class_names: tuple[str, ...], parts: int = 1) -> None:
        assert isinstance(detector.method, GFL)
        self.method, self.parts, self.distillation = detector.method, parts, Distillation()
        self.net = detector.net.requires_grad_(False).to(memory_format=torch.channels_last)
        self._columns = torch.tensor([detector.class_names.index(name) for name in class_names])

    @torch.no_grad()
    def look_at(self, images: Tensor) -> HeadOutputs:
        """The teacher's maps of a batch, with the student's classes in the student's order."""
        if self.net.mean.device != images.device:
            self.net.to(images.device)
            self._columns = self._columns.to(images.device)
        seen = [self.net(some) for some in images.chunk(self.parts)]
        classes, boxes = (
            [torch.cat(of_level) for of_level in zip(*maps, strict=True)]
            for maps in ([each.class_logits for each in seen], [each.box_maps for each in seen])
        )
        quality = [each.quality_logits for each in seen if each.quality_logits is not None]
        of_quality = [torch.cat(of_level) for of_level in zip(*quality, strict=True)] if quality else None
        return HeadOutputs([level[:, self._columns] for level in classes], boxes, of_quality)

    def losses(self, method: Method, outputs: HeadOutputs, taught: HeadOutputs, targets: Targets) -> dict[str, Tensor]:
        """The loss terms of a batch, from the student's maps and the teacher's.

        Raises:
            InputError: the maps have other shapes, because the backbones round differently.
        """
        assert isinstance(method, GFL)
        assert targets.valuable is not None
        if outputs.level_shapes != taught.level_shapes:
            raise InputError(
                f"--teacher: its maps have the shapes {taught.level_shapes}, the student's {outputs.level_shapes}; use "
                "a --size that is a multiple of 128"
            )
        return self.distillation.losses(method, outputs, self.method, taught, targets.positives, targets.valuable)

    def with_valuable(self, method: Method, targets: Targets, batch: TrainingBatch) -> Targets:
        """The targets of a batch, with the locations at which the teacher teaches."""
        assert isinstance(method, GFL)
        return self.distillation.with_valuable(method, targets, batch.truth, batch.valid_sizes)


def load_teacher(name: str | None, spec: ModelSpec, method: Method, *, parts: int = 1) -> Teacher | None:
    """Load the teacher of a run; ``None`` if it has none.

    Args:
        name: run folder, a file in it, or ``hf:OWNER/NAME``.
        spec, method: the student's.
        parts: see ``Teacher``.

    Raises:
        InputError: the run does not exist, or cannot teach this student; the message names the difference.
    """
    if name is None:
        return None
    if not isinstance(method, GFL):
        raise InputError(
            f"--teacher: the student's method, {spec.method}, has no distributions of sides; use --method "
            f"{', '.join(WITH_DISTRIBUTIONS)}"
        )
    run = local_run(name)
    if not is_on_hub(name) and run.is_file():
        if run.suffix == ".onnx":
            raise InputError(f"--teacher {name}: an exported file has no logits; give the run folder")
        run = run.parent
    if not Path(run).is_dir():
        raise InputError(f"--teacher {name}: no such run folder or model file")
    with torch.random.fork_rng(devices=[]):  # the student's own random numbers do not depend on its teacher
        detector = Detector.load(run, calibrated=False, device="cpu")
    _check_teaches(name, detector, spec, method)
    return Teacher(detector, spec.class_names, parts)


def _check_teaches(name: str, teacher: Detector, spec: ModelSpec, method: GFL) -> None:
    there = teacher.spec
    if not isinstance(teacher.method, GFL):
        raise InputError(
            f"--teacher {name}: its method, {there.method}, has no distributions of sides; a teacher needs "
            f"{', '.join(WITH_DISTRIBUTIONS)}"
        )
    pairs = {
        "--num-bins": (teacher.method.num_bins, method.num_bins),
        "--levels": (there.network.levels, spec.network.levels),
        "the centre of a cell, in strides": (there.offset, spec.offset),
        "the shift of the locations, in pixels": (there.postprocess.shift_px, spec.postprocess.shift_px),
        "the padding of the photos, in pixels": (there.network.pad_to, spec.network.pad_to),
    }
    for what, (theirs, own) in pairs.items():
        if theirs != own:
            raise InputError(f"--teacher {name}: {what} is {theirs} for the teacher, but {own} for the student")
    if missing := [each for each in spec.class_names if each not in there.class_names]:
        raise InputError(
            f"--teacher {name}: it does not know {first_names(missing)}; its classes are "
            f"{first_names(list(there.class_names))}"
        )


def collate_for(method: Method, net: DenseDetector, offset: float, teacher: Teacher | None) -> TargetCollate:
    """The collate function of a run."""
    if teacher is None:
        return TargetCollate(method, net, offset)
    assert isinstance(method, GFL)
    return TaughtCollate(method, net, offset, teacher.distillation)
