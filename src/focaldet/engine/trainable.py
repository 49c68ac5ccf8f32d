"""A detector for any training loop, called like torchvision's detectors.

In training it takes images and targets and returns the losses; in evaluation it takes images and returns boxes. So
torchvision's reference scripts, Lightning modules and loops written for torchvision train it unchanged.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import convert_bounding_box_format

from focaldet.boxes.locations import Lattice
from focaldet.checks import InputError, near_name
from focaldet.data.batching import Batch, Sample, collate
from focaldet.data.views import View, keep_visible
from focaldet.engine.beginning import build_detector
from focaldet.engine.checkpoints import check_free
from focaldet.engine.config import TrainConfig
from focaldet.engine.finetune import network_options
from focaldet.engine.hub import local_run
from focaldet.engine.spec import ModelSpec, read_spec, save_model
from focaldet.folders import check_out
from focaldet.methods.method import Method
from focaldet.methods.targets import losses_of, make_targets
from focaldet.models.detector import DenseDetector
from focaldet.models.postprocess import PostProcess

OPTIONS = tuple(
    field.name for field in fields(TrainConfig) if field.metadata["group"] in ("model", "loss") and field.name != "data"
)
"""Options of ``focaldet train`` that ``detector`` takes: the groups model and loss."""

FREEZING = ("frozen_stages", "freeze_norm", "teacher")
"""Options that the training loop decides on."""


def detector(
    method: str | None = None,
    *,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    weights: str | Path | None = None,
    score_threshold: float = 0.05,
    max_detections: int = 100,
    say: Callable[[str], None] = print,
    **options: Any,
) -> "TrainableDetector":
    """Build a detector that is called like torchvision's.

    Args:
        method: retinanet, fcos, atss, gfl, gflv2, tood or rtmdet; by default the method of ``weights``, or gfl.
        num_classes: labels are 0 to ``num_classes`` - 1, without background. If labels start at 1, as in torchvision's
            scripts, give one more, as for torchvision's own detectors.
        class_names: names of the classes, instead of ``num_classes``.
        weights: run folder to start from, or ``hf:OWNER/NAME``; by default the detector has the run's classes. With
            other classes, those of the same name keep their outputs.
        score_threshold: detections have higher scores.
        max_detections: largest number of detections per image.
        say: prints a line about anything that the weights do not provide.
        options: model and loss options of ``focaldet train`` (docs/options.md): size, backbone, channels, ….

    Raises:
        InputError: an unknown option, or a value that does not fit.

    >>> model = detector("gfl", num_classes=3, backbone="mobilenetv3_small_050", channels=16, size=64, pretrained=False)
    >>> images = [torch.rand(3, 48, 64), torch.rand(3, 30, 20)]
    >>> cell = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([2])}
    >>> nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    >>> sorted(model(images, [cell, nothing]))
    ['box', 'class', 'distribution']
    >>> found = model.eval()(images)
    >>> len(found), sorted(found[0])
    (2, ['boxes', 'labels', 'scores', 'side_std'])
    """
    known = [name for name in OPTIONS if name not in FREEZING]
    for name in options:
        if name not in known:
            raise InputError(f"detector: unknown option {name!r}; {near_name(name, known)}")
    there: tuple[str, ...] = ()
    if weights is not None:
        options = network_options(Path(weights), method) | options | {"weights": str(weights)}
        there = read_spec(local_run(weights) / "model.json").class_names
    elif method is not None:
        options["method"] = method
    names = _names(num_classes, class_names, there)
    config = TrainConfig(data="", max_detections=max_detections, **options)
    spec, net, built = build_detector(config, names, say=say)
    postprocess = replace(spec.postprocess.with_room(max_detections), score_threshold=score_threshold)
    return TrainableDetector(replace(spec, postprocess=postprocess), net, built)


def _names(num_classes: int | None, class_names: Sequence[str] | None, there: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the classes; ``there``: class names of the weights."""
    names = tuple(class_names or there)
    if num_classes is None and not names:
        raise InputError("num_classes: missing; say how many classes there are, or name them with class_names")
    if num_classes is not None and num_classes < 1:
        raise InputError(f"num_classes: expected at least 1, got {num_classes}")
    if num_classes is None or num_classes == len(names):
        return names
    if class_names is not None:
        raise InputError(f"num_classes: {num_classes}, but class_names has {len(names)}; leave one of them out")
    return tuple(f"class {label}" for label in range(num_classes))


class TrainableDetector(nn.Module):
    """A detector called like torchvision's: losses in training mode, detections in evaluation mode.

    Images are float ``(3, H, W)`` in [0, 1], RGB, of any sizes (or uint8); the detector scales and normalises them
    itself. Boxes are in pixels of the given image.

    Args:
        spec: description of the network, with the thresholds of its detections.
        net, method: built from ``spec``.

    Attributes:
        net: the network; its state dict has the names of a run's ``model.safetensors``.
        progress: completed share of the training, set by your loop; only TOOD reads it. By default, its predictions
            choose the positives from the first step on; below a third, ATSS chooses them.
    """

    def __init__(self, spec: ModelSpec, net: DenseDetector, method: Method) -> None:
        super().__init__()
        self.spec, self.method = spec, method
        self.net = net.to(memory_format=torch.channels_last)
        self.postprocess = PostProcess(method, net.strides, spec.postprocess)
        self.progress = 1.0
        self._range_checked = False

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class name of each label."""
        return self.spec.class_names

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Any]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """In training mode, the losses, whose sum is minimised; in evaluation mode, the detections.

        Args:
            images: float ``(3, H, W)`` in [0, 1].
            targets: for each image ``boxes`` ``(N, 4)`` float xyxy and ``labels`` ``(N,)`` int64; boxes marked in
                ``iscrowd`` are neither objects nor background. Other entries are ignored. Required in training only.

        Returns:
            Losses by name; or for each image ``boxes``, ``labels``, ``scores``, best first, and for methods with
            distributions ``side_std``, the standard deviation of each side in pixels.

        Raises:
            InputError: an image or a target does not fit; the message names it.
        """
        self._check_images(images)
        if not self.training:
            return self._detect(images)
        if targets is None:
            raise InputError("targets: missing; the losses of training mode need them (for detections, call eval())")
        if len(targets) != len(images):
            raise InputError(f"targets: expected one for each of the {len(images)} images, got {len(targets)}")
        return self._losses(
            collate([self._sample(i, *pair) for i, pair in enumerate(zip(images, targets, strict=True))])
        )

    def save(self, run: str | Path, class_names: Sequence[str] | None = None) -> Path:
        """Write a run folder, for ``focaldet.Run``, ``focaldet predict``, ``export`` and ``serve``.

        Args:
            run: folder to create.
            class_names: names for the labels; by default the names that the detector was built with.

        Raises:
            InputError: the folder holds something else, or the number of names differs.
        """
        names = tuple(class_names or self.class_names)
        if len(names) != len(self.class_names):
            raise InputError(f"class_names: expected {len(self.class_names)}, got {len(names)}")
        run = Path(run)
        check_free(run)
        check_out(run, "a run")
        save_model(run, replace(self.spec, class_names=names), self.net)
        return run

    def _check_images(self, images: Sequence[Tensor]) -> None:
        for number, image in enumerate(images):
            if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
                got = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
                raise InputError(f"images[{number}]: expected a tensor (3, H, W), got {got}")
            # Read at once, because each read waits for the GPU.
            if not self._range_checked and image.is_floating_point():
                self._range_checked = True
                least, most = image.detach().aminmax()
                if not -_BEYOND <= float(least) <= float(most) <= 1 + _BEYOND:
                    raise InputError(
                        f"images[{number}]: expected colours in [0, 1], got {float(least):g} to {float(most):g}; leave "
                        "out the normalisation, which the detector does itself, and divide 0 to 255 by 255"
                    )

    def _seen(self, image: Tensor) -> Tensor:
        """The network's input for an image: in [0, 255], its longer side scaled to ``size``."""
        height, width = image.shape[1:]
        canvas = self.spec.resize.canvas(width, height, self.spec.size)
        pixels = image.as_subclass(Tensor).float() * (255 if image.is_floating_point() else 1)
        if canvas == (width, height):
            return pixels
        return interpolate(pixels[None], canvas[::-1], mode="bilinear", antialias=True)[0]

    def _sample(self, number: int, image: Tensor, target: Mapping[str, Any]) -> Sample:
        """An image as the network sees it, with its target."""
        boxes, labels, ignored = _checked(f"targets[{number}]", target, len(self.class_names))
        seen = self._seen(image)
        scale = torch.tensor([seen.shape[2] / image.shape[2], seen.shape[1] / image.shape[1]]).repeat(2)
        view = keep_visible(View(seen, boxes * scale, labels, ignored))
        objects = ~view.ignored
        return Sample(number, seen, view.boxes_xyxy[objects], view.labels[objects], view.boxes_xyxy[view.ignored])

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.net(batch.images)
        lattice = Lattice(outputs.level_shapes, self.net.strides, self.spec.offset)
        targets = make_targets(self.method, batch.truth, lattice, batch.valid_sizes).to(batch.images.device)
        with torch.autocast(batch.images.device.type, enabled=False):
            return losses_of(self.method, outputs, targets, self.progress)

    def _detect(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Detections of each image. Only images of the same input size share a batch, because padding changes the
        outputs near it."""
        seen = [self._seen(image) for image in images]
        groups: defaultdict[torch.Size, list[int]] = defaultdict(list)
        for number, pixels in enumerate(seen):
            groups[pixels.shape].append(number)
        found: dict[int, dict[str, Tensor]] = {}
        for (_, height, width), numbers in groups.items():
            with torch.no_grad():
                outputs = self.net(torch.stack([seen[number] for number in numbers]))
                group = self.postprocess(outputs, [(height, width)] * len(numbers))
            for number, boxes in zip(numbers, group, strict=True):
                x, y = images[number].shape[2] / width, images[number].shape[1] / height
                scale = boxes.boxes_xyxy.new_tensor([x, y, x, y])
                found[number] = {
                    "boxes": boxes.boxes_xyxy * scale,
                    "labels": boxes.labels,
                    "scores": boxes.scores,
                    **({} if boxes.side_std_px is None else {"side_std": boxes.side_std_px * scale}),
                }
        return [found[number] for number in range(len(images))]


_BEYOND = 0.5
"""Tolerance for colours outside [0, 1]: sharpening and cubic resampling overshoot; normalised colours go further."""


def _checked(name: str, target: Mapping[str, Any], num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, labels and ignored of a target on the CPU.

    Raises:
        InputError: one of them does not fit.
    """
    for key in ("boxes", "labels"):
        if not isinstance(target.get(key), Tensor):
            raise InputError(f"{name}: expected a tensor {key!r}")
    boxes, labels = target["boxes"], target["labels"]
    if isinstance(boxes, tv_tensors.BoundingBoxes):
        boxes = convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY)
    boxes, labels = (x.detach().cpu().as_subclass(Tensor) for x in (boxes, labels))
    if boxes.numel() == 0:
        boxes, labels = boxes.reshape(0, 4), labels.long()
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"{name}['boxes']: expected shape (N, 4), got {tuple(boxes.shape)}")
    if labels.shape != boxes.shape[:1] or labels.is_floating_point():
        raise InputError(
            f"{name}['labels']: expected {len(boxes)} whole numbers, got {tuple(labels.shape)} {labels.dtype}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        start = "; labels that start at 1 need num_classes one larger" if wrong == num_classes else ""
        raise InputError(f"{name}['labels']: expected 0 to {num_classes - 1}, got {wrong}{start}")
    boxes = boxes.float()
    sound = (boxes[:, 2:] > boxes[:, :2]).all(1) & boxes.isfinite().all(1)
    if not bool(sound.all()):
        worst = int((~sound).nonzero()[0])
        raise InputError(f"{name}['boxes'][{worst}]: expected x1 < x2 and y1 < y2, got {boxes[worst].tolist()}")
    crowd = torch.as_tensor(target.get("iscrowd", torch.zeros(len(labels)))).cpu().as_subclass(Tensor)
    if crowd.shape != labels.shape:
        raise InputError(f"{name}['iscrowd']: expected {len(labels)} numbers, got {tuple(crowd.shape)}")
    return boxes, labels.long(), crowd.bool()
