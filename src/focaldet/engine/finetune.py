"""Start a run from the weights of another one, which ``focaldet train`` or ``focaldet import`` created.

Backbone, pyramid and towers are loaded completely, so the network must be built the same way. The last layers are
loaded where their outputs mean the same: classes by name, boxes if both methods decode them alike. Everything
re-initialised, dropped or decoded differently is reported.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from focaldet.checks import InputError, first_names
from focaldet.engine.config import TrainConfig
from focaldet.engine.detector import Detector
from focaldet.engine.hub import local_run
from focaldet.engine.loss_options import as_text
from focaldet.engine.spec import METHODS, ModelSpec, read_spec, spec_of
from focaldet.methods.method import Method
from focaldet.models.detector import DenseDetector
from focaldet.models.postprocess import PostProcessConfig
from focaldet.photos.resize import Resize

LAST_LAYERS = tuple(f"head.{name}." for name in ("class_logits", "box_outputs", "scales", "centerness", "quality"))
"""Layers that depend on the classes and on the method."""


def network_options(run: Path, method: str | None = None) -> dict[str, Any]:
    """Read the network options of a run: the values that ``--weights RUN`` gives to options not given.

    Args:
        run: its folder.
        method: the method to train; ``None``: the run's own.

    Returns:
        Fields of ``TrainConfig``.

    Raises:
        InputError: no such run, or its ``model.json`` is damaged.
    """
    run = local_run(run)
    if not run.is_dir():
        raise InputError(f"--weights {run}: no such run folder")
    spec = read_spec(run / "model.json")
    options: dict[str, Any] = {"method": method or spec.method, "levels": spec.network.levels}
    options |= {name: getattr(spec, name) for name in ("backbone", "size", "tile", "channels", "head_depth")}
    if options["method"] == spec.method:
        own = METHODS[spec.method](**spec.method_options)
        known = {option.name for option in fields(TrainConfig)}
        options |= {option.name: getattr(own, option.name) for option in fields(own) if option.name in known}
        options["alpha"] = as_text(own.alpha, spec.class_names)
    return options


def tuned_spec(config: TrainConfig, class_names: tuple[str, ...], source: ModelSpec) -> ModelSpec:
    """Describe the model of a run that starts from the weights of ``source``.

    It uses the photo sizes, locations and thresholds of all runs trained here; only the position of a location in its
    cell is taken from ``source``.

    Raises:
        InputError: the configuration asks for another network.
    """
    config = config.without_photos()
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
    """Load the weights of ``source`` into a network built from ``tuned_spec``.

    Returns:
        A line for each layer or class that is re-initialised or dropped.
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
        lines += [f"re-initialised classes: {first_names(new)}"] if new else []
        lines += [f"dropped classes: {first_names(gone)}"] if gone else []
    else:
        lines.append(
            f"re-initialised: class outputs; {spec.method} has {method.anchors_per_location} per location, "
            f"{source.spec.method} {before.anchors_per_location}"
        )
    same_kind = type(method).decode is type(before).decode
    alike = same_kind and method.num_box_channels == before.num_box_channels
    kept = ("head.centerness.", *(("head.box_outputs.", "head.scales.", "head.quality.") if alike else ()))
    taken |= {name: value for name, value in theirs.items() if name.startswith(kept) and name in own}
    if not same_kind:
        lines.append(f"re-initialised: box outputs; {spec.method} encodes boxes differently from {source.spec.method}")
    elif not alike:
        lines.append(
            f"re-initialised: box outputs; {method.num_box_channels} numbers per box, not {before.num_box_channels}"
        )
    lines += [f"re-initialised: {name}" for name in ("head.centerness", "head.quality") if _has(own, name, taken)]
    lines += [f"dropped: {name}" for name in ("head.centerness", "head.quality") if _has(theirs, name, own)]
    net.load_state_dict(own | taken)
    return lines


def begin_with(
    config: TrainConfig, class_names: tuple[str, ...], *, say: Callable[[str], None]
) -> tuple[ModelSpec, DenseDetector, Method]:
    """Build the initial detector of ``train --weights RUN``.

    Raises:
        InputError: no such run, it is damaged, or the configuration asks for another network.
    """
    run = local_run(str(config.weights))
    if not run.is_dir():
        raise InputError(f"--weights {run}: no such run folder")
    source = Detector.load(run, calibrated=False, device="cpu")
    spec = tuned_spec(config, class_names, source.spec)
    net, method = spec.build(prior_prob=config.prior_prob)
    lines = take_weights(net, method, spec, source)
    say(f"starting from the weights of {config.weights}: {source.spec.method}, {source.spec.backbone}")
    for line in lines + _decoding_changes(spec, source.spec):
        say(f"  {line}")
    return spec, net, method


def _decoding_changes(spec: ModelSpec, source: ModelSpec) -> list[str]:
    """Sentences about differences between the run's original code and training here."""
    lines, postprocess = [], source.postprocess
    if postprocess.steps == "fitted":
        lines.append("locations were fitted to each image; now they lie at multiples of the strides")
    if postprocess.shift_px or postprocess.last_pixel:
        lines.append("locations and boxes referred to pixel centres; now they refer to pixel edges")
    if source.resize != Resize():
        short = source.resize.short_side
        before = f"a shorter side of {short} px" if short else f"a longer side of {source.size} px"
        lines.append(
            f"photos were scaled to {before} ({source.resize.resampling}); now to a longer side of {spec.size} px"
        )
    return lines


def _rows_by_name(own: Tensor, theirs: Tensor, names: tuple[str, ...], known: tuple[str, ...]) -> Tensor:
    """Rows ``(A * C, ...)`` of the class outputs: ``theirs`` for classes in ``known``, ``own`` for the others.

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
    """Whether ``state`` has tensors of a layer that ``without`` lacks."""
    return any(key.startswith(f"{name}.") and key not in without for key in state)
