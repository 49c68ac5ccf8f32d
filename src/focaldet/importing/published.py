"""Weights by name: ``torchvision:NAME``, ``timm:NAME`` and ``hf:OWNER/NAME``, fetched by the library's own loader."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torchvision
from safetensors.torch import save

from focaldet.checks import InputError, near_name
from focaldet.engine.checkpoints import check_free
from focaldet.engine.hub import FILES, PREFIX, local_run, repository_of
from focaldet.files import replacing
from focaldet.folders import check_out, make_numbered
from focaldet.models.backbone import Backbone
from focaldet.models.pretrained import url_file

DETECTORS = ("retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn")
"""Detectors of torchvision that can be imported."""

SOURCES = ("torchvision:", "timm:", PREFIX)


def is_name(source: str | Path) -> bool:
    """Whether the text names published weights, not a file.

    >>> is_name("torchvision:fcos_resnet50_fpn"), is_name("weights/fcos.pth")
    (True, False)
    """
    return str(source).startswith(SOURCES)


def torchvision_file(name: str) -> Path:
    """The file of a detector's published COCO weights.

    Raises:
        InputError: not one of ``DETECTORS``, or the file is not available.
    """
    if name not in DETECTORS:
        raise InputError(f"torchvision:{name}: unknown detector; {near_name(name, DETECTORS)}")
    weights: Any = torchvision.models.get_model_weights(name)
    return url_file(weights.DEFAULT.url)


def fetch_backbone(name: str, out: Path | None, say: Callable[[str], None]) -> Path:
    """Write timm's pretrained weights of a backbone as a file for ``--backbone-weights``. Returns its path.

    Args:
        out: the file; ``None``: named after the backbone.

    Raises:
        InputError: the network does not exist, or its weights are not available.
    """
    out = Path(f"{name}.safetensors") if out is None else out
    if out.suffix != ".safetensors" or out.is_dir():
        raise InputError(f"--out {out}: expected a file whose name ends in .safetensors")
    net = Backbone(name, pretrained=True).net
    with replacing(out) as beside:
        beside.write_bytes(save({key: value.contiguous() for key, value in net.state_dict().items()}))
    say(f"use it: focaldet train --data DIR --backbone {name} --backbone-weights {out}")
    return out


def copy_run(source: str | Path, out: Path | None, say: Callable[[str], None]) -> Path:
    """Create a run folder from a run on the hub. Returns the folder.

    Args:
        source: ``hf:OWNER/NAME``.
        out: run folder; ``None``: a new one in ``runs``.

    Raises:
        InputError: the folder is not free, or as ``local_run``.
    """
    if out is not None:
        check_free(out)
        check_out(out, "a run")
    there = local_run(source)
    run = make_numbered(Path("runs") / repository_of(source).split("/")[1]) if out is None else out
    run.mkdir(parents=True, exist_ok=True)
    for name in sorted(FILES, reverse=True):  # the file that marks a run comes last
        if (there / name).exists():
            with replacing(run / name) as beside:
                shutil.copyfile(there / name, beside)
    say(f"{source}: saved as run {run}")
    return run
