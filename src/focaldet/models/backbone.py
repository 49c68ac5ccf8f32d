"""Backbones: any timm network that provides feature maps, by its timm name."""

import functools
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from focaldet.checks import InputError, check_finite_weights, one_line
from focaldet.files import open_regular
from focaldet.models.pretrained import pretrained_file


class Backbone(nn.Module):
    """A timm network reduced to feature maps of given strides.

    Args:
        name: name of the network in timm.
        strides: strides of the maps: 8, 16 and 32 are C3, C4 and C5.
        pretrained: with timm's pretrained weights, see ``pretrained_file``.

    Attributes:
        channels: number of channels of each map.
        mean, std: normalisation that the pretrained weights expect, for images in [0, 1].
    """

    def __init__(self, name: str, strides: tuple[int, ...] = (8, 16, 32), *, pretrained: bool = False) -> None:
        super().__init__()
        reductions = feature_strides(name)
        missing = [stride for stride in strides if stride not in reductions]
        if missing:
            raise InputError(
                f"--backbone {name}: has no feature map of stride {missing[0]} (its strides: {reductions}); "
                f"choose a network with strides {', '.join(map(str, strides))}"
            )
        # The last map of each stride, as some networks have two of stride 32.
        indices = [max(i for i, r in enumerate(reductions) if r == stride) for stride in strides]
        overlay = {"file": str(_pretrained_file(name))} if pretrained else None
        self.net = _create(name, pretrained=pretrained, pretrained_cfg_overlay=overlay, out_indices=indices)
        self.name = name
        self.channels: list[int] = self.net.feature_info.channels()
        self.channels_last_output: bool = getattr(self.net, "output_fmt", None) == "NHWC"
        config = self.net.default_cfg if hasattr(self.net, "default_cfg") else self.net.pretrained_cfg
        self.mean: tuple[float, ...] = tuple(config["mean"])
        self.std: tuple[float, ...] = tuple(config["std"])

    def freeze_stages(self, count: int) -> None:
        """Freeze weights and batch-norm statistics up to the map of stride ``2 ** (count + 1)``.

        No gradient is computed for these stages, which saves much of a step because their maps are the largest.

        Raises:
            InputError: the network has no map of this stride.
        """
        stride = 2 ** (count + 1)
        modules = {_flat(name): module for name, module in self.net.named_modules()}
        ends = [_flat(info["module"]) for info in self.net.feature_info.info if info["reduction"] == stride]
        if not ends or ends[-1] not in modules:
            raise InputError(
                f"--frozen-stages {count}: {self.name} has no feature map of stride {stride}; choose another number"
            )
        *_, last = modules[ends[-1]].modules()
        for module in modules.values():  # registered in execution order
            module.training = False
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
            if module is last:
                break

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images ``(B, 3, H, W)`` to feature maps, finest first."""
        maps = self.net(images)
        return [x.permute(0, 3, 1, 2) for x in maps] if self.channels_last_output else list(maps)


@functools.cache
def feature_strides(name: str) -> list[int]:
    """Strides of all feature maps of a network. The list is cached: do not modify it."""
    with torch.device("meta"):  # the strides do not depend on the weights
        reductions: list[int] = _create(name, pretrained=False).feature_info.reduction()
    return reductions


def check_known(name: str) -> None:
    """Raise InputError if timm has no such network."""
    if not timm.is_model(name):
        raise InputError(f"--backbone {name}: timm {timm.__version__} has no such network; {_near(name)}")


def _create(name: str, *, pretrained: bool, **options: Any) -> Any:
    check_known(name)
    if name.startswith("swin"):
        options["strict_img_size"] = False  # its windows are padded, so it accepts any size
    try:
        return timm.create_model(name, features_only=True, pretrained=pretrained, **options)
    except (RuntimeError, AttributeError, TypeError, AssertionError) as error:
        if pretrained:
            raise InputError(f"--backbone {name}: its pretrained weights do not fit ({one_line(error)})") from error
        raise InputError(f"--backbone {name}: timm cannot cut it into feature maps ({one_line(error)})") from error


def check_any_size(backbone: Backbone) -> None:
    """Raise InputError if a network requires a fixed image size or multiples of one.

    Runs the network once; called only before training a new detector.
    """
    training = backbone.training
    backbone.eval()
    # No attention window divides this size, and no table of positions is long enough.
    image = next(backbone.parameters()).new_zeros(1, 3, 64, 512)
    try:
        with torch.no_grad():
            backbone(image)
    except Exception as error:  # networks raise different classes
        raise InputError(
            f"--backbone {backbone.name}: requires a fixed image size, but detectors need any size; choose another, "
            "such as resnet18, convnext_tiny or swin_tiny_patch4_window7_224"
        ) from error
    backbone.train(training)


def load_backbone_weights(backbone: Backbone, file: Path) -> None:
    """Load a safetensors file with timm's names into the backbone, ignoring the classifier.

    Raises:
        InputError: the file is missing, is not a safetensors file, or does not fit the network.
    """
    try:
        open_regular(file).close()
        weights = load_file(file)
    except InputError as error:
        raise InputError(f"--backbone-weights {error}") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"--backbone-weights {file}: not a readable safetensors file ({one_line(error)})") from error
    own = backbone.net.state_dict()
    flat = {_flat(key): key for key in own}
    renamed = {flat[_flat(key)]: value for key, value in weights.items() if _flat(key) in flat}
    missing = [key for key in own if key not in renamed and not key.endswith("num_batches_tracked")]
    wrong = [key for key, value in renamed.items() if value.shape != own[key].shape]
    if missing or wrong:
        raise InputError(
            f"--backbone-weights {file}: does not fit --backbone {backbone.name}: "
            + (
                f"{len(missing)} of its {len(own)} tensors are not in the file, first {missing[0]!r}"
                if missing
                else f"{wrong[0]!r} has shape {tuple(renamed[wrong[0]].shape)}, expected {tuple(own[wrong[0]].shape)}"
            )
        )
    backbone.net.load_state_dict(renamed, strict=False)
    check_finite_weights(f"--backbone-weights {file}", backbone.net.state_dict())


def freeze_batch_norm(module: nn.Module) -> None:
    """Freeze all batch norms in ``module``: use their stored statistics in training too."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()
            for parameter in child.parameters(recurse=False):
                parameter.requires_grad_(False)


def _flat(name: str) -> str:
    """A name without dots: timm's feature extractors flatten some names (blocks_0 instead of blocks.0)."""
    return name.replace(".", "_")


def _near(name: str) -> str:
    name, known = name[:64].lower(), timm.list_models()
    near = sorted((other for other in known if len(name) > 2 and name in other), key=len)
    near = list(dict.fromkeys(near + get_close_matches(name, known, n=5)))[:5]
    if not near:
        return "see timm.list_models()"
    return f"did you mean {near[0]!r}?" + (f" Similar names: {', '.join(near[1:])}" if len(near) > 1 else "")


def _pretrained_file(name: str) -> Path:
    try:
        return pretrained_file(name)
    except InputError as error:
        raise InputError(f"--pretrained: {error}, or train from scratch with --no-pretrained") from error
