"""Sizes of detectors by name: the options of ``--preset``, chosen by time and AP (docs/training.md#presets)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from focaldet.checks import InputError, near_name

if TYPE_CHECKING:
    from focaldet.engine.config import TrainConfig

DEFAULT_SIZE = "medium"
"""The preset whose options are the defaults."""

_BY_PHOTOS: dict[str, Any] = {"levels": "auto", "head_depth": None, "num_bins": None}

PRESETS: dict[str, dict[str, Any]] = {
    "nano": {
        "backbone": "lcnet_050",
        "channels": 32,
        "size": 320,
        "levels": "p3-p7",
        "head_depth": 1,
        "num_bins": 9,
    },
    "small": {"backbone": "mobilenetv4_conv_small", "channels": 32, "size": 320} | _BY_PHOTOS,
    "medium": {"backbone": "regnetx_002", "channels": 64, "size": 320} | _BY_PHOTOS,
    "large": {"backbone": "regnetx_002", "channels": 64, "size": 480} | _BY_PHOTOS,
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

    >>> with_preset({"preset": "large", "size": 640})["size"]
    640
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
    """The preset with the backbone, channels and size of a configuration, or ``None``."""
    for name, options in PRESETS.items():
        if all(getattr(config, option) == options[option] for option in ("backbone", "channels", "size")):
            return name
    return None
