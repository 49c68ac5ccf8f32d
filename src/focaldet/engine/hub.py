"""Runs on the Hugging Face hub. ``hf:OWNER/NAME`` can replace a run folder wherever one is read."""

import re
from pathlib import Path

from focaldet.checks import InputError, one_line
from focaldet.system.downloads import quiet_hub, unreachable

PREFIX = "hf:"

FILES = ("model.json", "model.safetensors", "calibration.json", "evaluation.json", "README.md")
"""Files of a run on the hub: no photos, no labels, and nothing that can execute code."""


def is_on_hub(name: str | Path) -> bool:
    """Whether the text names a run on the hub.

    >>> is_on_hub("hf:focaldet/cells"), is_on_hub("runs/cells")
    (True, False)
    """
    return str(name).startswith(PREFIX)


def repository_of(name: str | Path) -> str:
    """OWNER/NAME of a run on the hub.

    Raises:
        InputError: not a name of this form.

    >>> repository_of("hf:focaldet/cells")
    'focaldet/cells'
    """
    repository = Path(name).as_posix().removeprefix(PREFIX)
    if not re.fullmatch(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", repository):
        raise InputError(f"{name}: expected OWNER/NAME")
    return repository


def local_run(run: str | Path) -> Path:
    """The folder of a run: the given one, or for ``hf:OWNER/NAME`` the hub's copy in the cache, downloaded if needed.

    Raises:
        InputError: the hub has no such run, or it is not in the cache and cannot be downloaded.
    """
    if not is_on_hub(run):
        return Path(run)
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    repository = repository_of(run)
    reason = unreachable(constants.ENDPOINT)
    try:
        with quiet_hub():
            found = snapshot_download(repository, allow_patterns=list(FILES), local_files_only=reason is not None)
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"{PREFIX}{repository}: cannot be downloaded ({reason or one_line(error)}); download it on another "
            f"machine (hf download {repository} --local-dir RUN), copy the folder here and give its path"
        ) from error
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise InputError(
            f"{PREFIX}{repository}: {constants.ENDPOINT} has no such model, or you may not read it; for a private one, "
            "log in first: hf auth login"
        ) from error
    except Exception as error:  # the hub raises many classes of errors
        raise InputError(f"{PREFIX}{repository}: the download failed ({one_line(error)})") from error
    folder = Path(found)
    for name in FILES[:2]:
        if not (folder / name).exists():
            raise InputError(f"{PREFIX}{repository}: not a run of focaldet ({name} is missing)")
    return folder


def check_local(run: str | Path, command: str) -> None:
    """Raise InputError if a command that writes into a run is given a run on the hub."""
    if is_on_hub(run):
        raise InputError(
            f"{command}: writes into the run, but {run} is on the hub; copy it first: focaldet import {run}"
        )
