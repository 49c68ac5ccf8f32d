"""A study of the demo's long-tailed digits, so that everybody can repeat it with one command."""

from pathlib import Path
from typing import Any

from focaldet.checks import InputError
from focaldet.data.digits import make_digits

FOLDER = Path("studies") / "digits"
"""Its folder, unless another one is named."""

OPTIONS: dict[str, Any] = {"size": 224, "flips": "none", "augment": "none", "pretrained": False}
"""As in the demo: each digit already has its own size, rotation and blur, and no network is needed."""


def digits_options(given: dict[str, Any], out: Path | None) -> tuple[dict[str, Any], Path]:
    """Make the photos, and complete the options of a study of them.

    Args:
        given: options of ``focaldet train`` for all rungs.
        out: folder of the study; the photos are beside it.

    Raises:
        InputError: ``--data`` is given, too, or the photos cannot be written.
    """
    if "data" in given:
        raise InputError("--digits: makes its own photos; leave out --data")
    out = out or FOLDER
    photos = out.with_name(f"{out.name}-photos")
    return {**OPTIONS, **given, "data": str(make_digits(photos))}, out
