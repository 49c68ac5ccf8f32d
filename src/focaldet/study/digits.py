"""A study on the demo's long-tailed digits, which everybody can repeat with one command."""

from pathlib import Path
from typing import Any

from focaldet.checks import InputError
from focaldet.data.digits import make_digits

FOLDER = Path("studies") / "digits"
"""Default folder of the study."""

OPTIONS: dict[str, Any] = {"size": 224, "flips": "none", "augment": "none", "pretrained": False}
"""Settings as in the demo: each digit already has its own size, rotation and blur, and no network is needed."""


def digits_options(given: dict[str, Any], out: Path | None) -> tuple[dict[str, Any], Path]:
    """Create the photos and complete the options of a study on them.

    Args:
        given: options of ``focaldet train`` for all rungs.
        out: folder of the study; the photos are next to it.

    Raises:
        InputError: ``--data`` is given as well, or the photos cannot be written.
    """
    if "data" in given:
        raise InputError("--digits: generates its own photos; leave out --data")
    out = out or FOLDER
    photos = out.with_name(f"{out.name}-photos")
    return {**OPTIONS, **given, "data": str(make_digits(photos))}, out
