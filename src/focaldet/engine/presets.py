"""Sizes of detectors by name: the options of ``--preset``, chosen by time and AP (docs/training.md#presets)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from focaldet.checks import InputError, near_name

if TYPE_CHECKING:
    from focaldet.engine.config import TrainConfig

DEFAULT_SIZE = "small"
"""The preset whose options are the defaults."""

PRESETS: dict[str, dict[str, Any]] = {
    "nano": {"backbone": "lcnet_050", "channels": 32, "size": 320},
    "small": {"backbone": "regnetx_002", "channels": 64, "size": 320},
    "medium": {"backbone": "regnetx_002", "channels": 64, "size": 480},
    "large": {"backbone": "resnet18", "channels": 64, "size": 640},
}
"""Name -> options of ``focaldet train``, smallest first."""

PRESET_HELP = f"size of the detector: backbone, channels and image size (docs/training.md; default: {DEFAULT_SIZE})"
"""Help of ``--preset``."""

_OTHER_NETWORK = {"resume": "the run keeps its network", "weights": "the network is that of its run"}
"""Option that cannot be combined with a preset -> why."""


def with_preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """The given options, with ``preset`` replaced by its options; those that were given as well win.

    Raises:
        InputError: there is no such preset, or another option chooses the network.

    >>> with_preset({"preset": "nano", "size": 416})
    {'backbone': 'lcnet_050', 'channels': 32, 'size': 416}
    """
    options = dict(given)
    name = options.pop("preset", None)
    if name is None:
        return options
    if name not in PRESETS:
        raise InputError(f"--preset {name}: unknown; {near_name(str(name), PRESETS)}")
    for other, reason in _OTHER_NETWORK.items():
        if options.get(other):
            raise InputError(f"--preset {name}: cannot be combined with --{other}, because {reason}")
    return PRESETS[name] | options


def preset_of(config: "TrainConfig") -> str | None:
    """The preset whose options a configuration has, or ``None``."""
    matching = (name for name, options in PRESETS.items() if all(getattr(config, o) == v for o, v in options.items()))
    return next(matching, None)
