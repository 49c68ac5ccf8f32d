"""Check before a download whether its server answers, so that no command waits for a missing network."""

import contextlib
import logging
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

PATIENCE_S = 5.0
"""Longest wait for a server's first answer, including the address lookup."""

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Environment variables that forbid downloads."""


def unreachable(url: str, patience_s: float = PATIENCE_S) -> str | None:
    """The reason why nothing can be downloaded from this address's server; ``None`` if it answers.

    >>> unreachable("http://127.0.0.1:1/model.pth")
    '...'
    """
    for name in OFFLINE:
        if os.environ.get(name, "").lower() in ("1", "true", "yes", "on"):
            return f"{name} is set"
    parts = urlsplit(url)
    host = f"{parts.scheme}://{parts.netloc}"
    answer: list[str | None] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(host, method="HEAD"), timeout=patience_s).close()
        except urllib.error.HTTPError:
            answer.append(None)  # it answers
        except (OSError, ValueError) as error:
            answer.append(str(getattr(error, "reason", None) or error))
        else:
            answer.append(None)

    asking = threading.Thread(target=ask, daemon=True)  # no timeout applies to an address lookup
    asking.start()
    asking.join(patience_s)
    return answer[0] if answer else f"no answer from {parts.netloc} within {patience_s:g} s"


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Silence the hub's warnings about each retry. The final error is still raised."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
