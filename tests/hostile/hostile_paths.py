"""Things that may lie at a path in place of a file."""

import os
import random
import socket
from pathlib import Path

STRANGE_PATHS = ("fifo", "folder", "loop", "dangling", "device", "zero", "socket", "empty")


def strange_path(place: Path, rng: random.Random) -> Path:
    """Put something at this path that is not a usable regular file."""
    match rng.choice(STRANGE_PATHS):
        case "fifo":
            os.mkfifo(place)
        case "folder":
            place.mkdir()
        case "loop":
            place.symlink_to(place)
        case "dangling":
            place.symlink_to("nowhere")
        case "device":
            place.symlink_to("/dev/null")
        case "zero":
            place.symlink_to("/dev/zero")
        case "socket":
            with socket.socket(socket.AF_UNIX) as opened:
                here = os.getcwd()
                os.chdir(place.parent)  # the name of a socket is short
                opened.bind(place.name)
                os.chdir(here)
        case _:
            place.touch()
    return place
