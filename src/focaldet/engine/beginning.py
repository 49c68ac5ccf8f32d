"""The initial detector of a run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lightning as L

from focaldet.checks import InputError
from focaldet.engine.config import TrainConfig
from focaldet.engine.finetune import begin_with
from focaldet.engine.spec import ModelSpec, spec_of
from focaldet.methods.method import Method
from focaldet.models.backbone import check_any_size, check_known, load_backbone_weights
from focaldet.models.detector import DenseDetector
from focaldet.models.pretrained import pretrained_file


def _silence(line: str) -> None:
    """Print nothing."""


def with_chosen_weights(config: TrainConfig, say: Callable[[str], None]) -> TrainConfig:
    """The configuration with ``pretrained`` true or false instead of ``"auto"``; a line says which and why.

    Raises:
        InputError: timm has no such network.
    """
    if config.pretrained != "auto":
        return config
    if config.weights is not None or config.backbone_weights is not None:
        return replace(config, pretrained=False)
    check_known(config.backbone)
    try:
        pretrained_file(config.backbone)
    except InputError as error:
        say(f"training from scratch: {error}")
        return replace(config, pretrained=False)
    say(f"starting from timm's pretrained weights of {config.backbone}; without them: --no-pretrained")
    return replace(config, pretrained=True)


def first_detector(
    config: TrainConfig, class_names: tuple[str, ...], *, say: Callable[[str], None] = _silence
) -> tuple[ModelSpec, DenseDetector, Method]:
    """Build the initial detector of a run; equal settings give equal weights."""
    L.seed_everything(config.seed, verbose=False)
    return build_detector(config, class_names, say=say)


def build_detector(
    config: TrainConfig, class_names: tuple[str, ...], *, say: Callable[[str], None] = _silence
) -> tuple[ModelSpec, DenseDetector, Method]:
    """Build the initial detector of a run, without seeding the random numbers."""
    config = with_chosen_weights(config, say)
    if config.weights is not None:
        return begin_with(config, class_names, say=say)
    spec = spec_of(config, class_names)
    net, method = spec.build(pretrained=config.pretrained is True, prior_prob=config.prior_prob)
    check_any_size(net.backbone)
    if config.backbone_weights is not None:
        load_backbone_weights(net.backbone, Path(config.backbone_weights))
    return spec, net, method
