"""The file of a backbone's pretrained weights, by its timm name: from the cache, or downloaded into it."""

import hashlib
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import timm
import torch

from focaldet.checks import InputError, one_line
from focaldet.system.downloads import PATIENCE_S, quiet_hub, unreachable

FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of a weights file in a repository of the hub, in the order of preference."""


def pretrained_file(name: str) -> Path:
    """The file of timm's pretrained weights of a network.

    Raises:
        InputError: the network has none, they are not cached and cannot be downloaded, or the file is damaged.
    """
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None or not (config.hf_hub_id or config.url):
        raise InputError(f"timm has no pretrained weights of {name}")
    if not config.hf_hub_id:
        return url_file(str(config.url))
    repository, _, revision = str(config.hf_hub_id).partition("@")
    files = (config.hf_hub_filename,) if config.hf_hub_filename else FILES
    return _hub_file(repository, revision or None, files)


def url_file(url: str) -> Path:
    """The file in torch's cache for an address, downloaded by torch's own loader if it is missing.

    The name of such a file ends in the first digits of its SHA-256, which are checked.

    Raises:
        InputError: it cannot be downloaded, or is damaged.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    stated = re.search(r"-([0-9a-f]{8,})\.\w+$", file.name)
    if file.exists():
        _check_hash(file, stated[1] if stated else "")
        return file
    bring = f"copy {url} from another machine to {file}"
    if reason := unreachable(url):
        raise InputError(f"{file.name}: cannot be downloaded ({reason}); {bring}")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _short_waits():
            torch.hub.download_url_to_file(url, str(file), stated[1] if stated else None)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{file.name}: the download failed ({one_line(error)}); {bring}") from error
    return file


def _hub_file(repository: str, revision: str | None, names: tuple[str, ...]) -> Path:
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in names:
        cached = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(cached, str):
            blob = Path(cached).resolve().name  # a large file is stored under its SHA-256
            _check_hash(Path(cached), blob if re.fullmatch("[0-9a-f]{64}", blob) else "")
            return Path(cached)
    url = f"{constants.ENDPOINT}/{repository}/resolve/{revision or 'main'}/{names[0]}"
    bring = f"copy {url} from another machine and name it with --backbone-weights"
    if reason := unreachable(url):
        raise InputError(f"{repository}: cannot be downloaded ({reason}); {bring}")
    for name in names:
        try:
            with quiet_hub():
                return Path(hf_hub_download(repository, name, revision=revision))
        except LocalEntryNotFoundError as error:
            raise InputError(f"{repository}: the download failed ({one_line(error)}); {bring}") from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # the hub raises many classes of errors
            raise InputError(f"{repository}: the download failed ({one_line(error)}); {bring}") from error
    raise InputError(f"{repository}: has none of {', '.join(names)}")


def _check_hash(file: Path, stated: str) -> None:
    """Raise InputError if the SHA-256 of a file does not begin with these digits."""
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if not found.startswith(stated):
        raise InputError(
            f"{file}: is damaged (its SHA-256 begins with {found[: min(8, len(stated))]}, expected {stated[:8]}); "
            "remove it to download it again"
        )


@contextmanager
def _short_waits() -> Iterator[None]:
    """torch's loader has no timeout of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(2 * PATIENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
