"""A run that begins with the weights of another one, of ``focaldet train`` or ``focaldet import``.

Backbone, pyramid and towers are taken whole, so the network has to be built as it was. The last layers are taken where
their numbers mean the same: a class by its name, boxes where both methods read them alike; the others begin anew.
Whatever is anew, left out or read in another way is told.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from focaldet.checks import InputError, first_names
from focaldet.engine.config import TrainConfig
from focaldet.engine.detector import Detector
from focaldet.engine.spec import METHODS, ModelSpec, read_spec, spec_of
from focaldet.methods.method import Method
from focaldet.models.detector import DenseDetector
from focaldet.models.postprocess import PostProcessConfig
from focaldet.photos.resize import Resize

LAST_LAYERS = tuple(f"head.{name}." for name in ("class_logits", "box_outputs", "scales", "centerness", "quality"))
"""What depends on the classes and on the method."""


def network_options(run: Path, method: str | None = None) -> dict[str, Any]:
    """The options of ``TrainConfig`` that a run's network has: what ``--weights RUN`` means for those not given.

    Args:
        run: its folder.
        method: the one that is to be trained; ``None``: the run's.

    Raises:
        InputError: no such run, or its ``model.json`` is broken.
    """
    if not run.is_dir():
        raise InputError(f"--weights {run}: no such run folder")
    spec = read_spec(run / "model.json")
    options: dict[str, Any] = {"method": method or spec.method, "levels": spec.network.levels}
    options |= {name: getattr(spec, name) for name in ("backbone", "size", "channels", "head_depth")}
    if options["method"] == spec.method:
        own = METHODS[spec.method](**spec.method_options)
        known = {option.name for option in fields(TrainConfig)}
        options |= {option.name: getattr(own, option.name) for option in fields(own) if option.name in known}
    return options


def tuned_spec(config: TrainConfig, class_names: tuple[str, ...], source: ModelSpec) -> ModelSpec:
    """The model of a run that begins with the weights of ``source``.

    It is trained and read with the locations, sizes of photos and thresholds that every run here has; only where in its
    cell a location lies stays as the weights know it.

    Raises:
        InputError: the configuration asks for another network.
    """
    spec = spec_of(config, class_names)
    asked = {name: getattr(config, name) for name in ("backbone", "levels", "channels", "head_depth")}
    for name, value in asked.items():
        there = source.network.levels if name == "levels" else getattr(source, name)
        if value != there:
            raise InputError(
                f"--{name.replace('_', '-')} {value}: the network of --weights {config.weights} has {there}, and its "
                "weights fit no other"
            )
    options = source.method_options if config.method == source.method else {}
    return replace(
        spec,
        network=source.network,
        method_options=options | spec.method_options,
        postprocess=PostProcessConfig(offset=source.postprocess.offset),
    )


def take_weights(net: DenseDetector, method: Method, spec: ModelSpec, source: Detector) -> list[str]:
    """Load the weights of ``source`` into a network of ``tuned_spec``.

    Returns:
        A line about each thing that begins anew or is left out.
    """
    own, theirs = net.state_dict(), source.net.state_dict()
    before = source.method
    taken = {name: value for name, value in theirs.items() if not name.startswith(LAST_LAYERS)}
    lines = []
    if method.anchors_per_location == before.anchors_per_location:
        for part in ("weight", "bias"):
            name = f"head.class_logits.{part}"
            taken[name] = _rows_by_name(own[name], theirs[name], spec.class_names, source.class_names)
        new = [name for name in spec.class_names if name not in source.class_names]
        gone = [name for name in source.class_names if name not in spec.class_names]
        lines += [f"classes that begin anew: {first_names(new)}"] if new else []
        lines += [f"classes left out: {first_names(gone)}"] if gone else []
    else:
        lines.append(
            f"class outputs begin anew: {spec.method} has {method.anchors_per_location} at a location, "
            f"{source.spec.method} {before.anchors_per_location}"
        )
    same_kind = type(method).decode is type(before).decode
    alike = same_kind and method.num_box_channels == before.num_box_channels
    kept = ("head.centerness.", *(("head.box_outputs.", "head.scales.", "head.quality.") if alike else ()))
    taken |= {name: value for name, value in theirs.items() if name.startswith(kept) and name in own}
    if not same_kind:
        lines.append(f"box outputs begin anew: {spec.method} does not write boxes as {source.spec.method} did")
    elif not alike:
        lines.append(
            f"box outputs begin anew: {method.num_box_channels} numbers for a box, not {before.num_box_channels}"
        )
    lines += [f"begins anew: {name}" for name in ("head.centerness", "head.quality") if _has(own, name, taken)]
    lines += [f"left out: {name}" for name in ("head.centerness", "head.quality") if _has(theirs, name, own)]
    net.load_state_dict(own | taken)
    return lines


def begin_with(
    config: TrainConfig, class_names: tuple[str, ...], *, say: Callable[[str], None]
) -> tuple[ModelSpec, DenseDetector, Method]:
    """The detector with which ``train --weights RUN`` begins.

    Raises:
        InputError: no such run, it is broken, or the configuration asks for another network.
    """
    run = Path(str(config.weights))
    if not run.is_dir():
        raise InputError(f"--weights {run}: no such run folder")
    source = Detector.load(run, device="cpu")
    spec = tuned_spec(config, class_names, source.spec)
    net, method = spec.build(prior_prob=config.prior_prob)
    lines = take_weights(net, method, spec, source)
    say(f"beginning with the weights of {run}: {source.spec.method}, {source.spec.backbone}")
    for line in lines + _read_anew(spec, source.spec):
        say(f"  {line}")
    return spec, net, method


def _read_anew(spec: ModelSpec, source: ModelSpec) -> list[str]:
    """What the run's own code does in another way than is trained here."""
    lines, postprocess = [], source.postprocess
    if postprocess.steps == "fitted":
        lines.append("its locations were fitted to each image; now they lie at multiples of the strides")
    if postprocess.shift_px or postprocess.last_pixel:
        lines.append("its locations and boxes counted pixels by their middles; now they count by their borders")
    if source.resize != Resize():
        short = source.resize.short_side
        before = f"a shorter side of {short} px" if short else f"a longer side of {source.size} px"
        lines.append(
            f"its photos were scaled to {before} ({source.resize.resampling}); now to a longer side of {spec.size} px"
        )
    return lines


def _rows_by_name(own: Tensor, theirs: Tensor, names: tuple[str, ...], known: tuple[str, ...]) -> Tensor:
    """Rows ``(A * C, ...)`` of the class outputs: those of known names theirs, the others our own.

    >>> import torch
    >>> own, theirs = torch.zeros(4), torch.tensor([1.0, 2, 3, 4, 5, 6])  # of 2 anchors
    >>> _rows_by_name(own, theirs, ("cat", "dog"), ("bird", "dog", "fish"))
    tensor([0., 2., 0., 5.])
    """
    rows = own.clone().view(-1, len(names), *own.shape[1:])
    for label, name in enumerate(names):
        if name in known:
            rows[:, label] = theirs.view(-1, len(known), *theirs.shape[1:])[:, known.index(name)]
    return rows.view_as(own)


def _has(state: dict[str, Tensor], name: str, without: dict[str, Tensor]) -> bool:
    """Whether a layer's tensors are in one state and not in the other."""
    return any(key.startswith(f"{name}.") and key not in without for key in state)
