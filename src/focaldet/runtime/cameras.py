"""Frames of a local or network camera, read with PyAV like videos."""

import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from focaldet.checks import InputError
from focaldet.photos.limits import MAX_PIXELS
from focaldet.runtime.video import Frame, import_av, reason_of

SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "tcp", "udp")
"""Beginnings of addresses that are read as cameras."""

OPEN_S, READ_S = 10.0, 10.0
"""Seconds to wait for a camera, and for its next frame."""

_NETWORK = {
    "protocol_whitelist": "rtsp,rtsps,rtp,srtp,rtmp,rtmps,http,https,httpproxy,tcp,udp,tls,crypto",  # no local file
    "rtsp_transport": "tcp",  # UDP loses packets, which turns pictures grey
}

_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}
"""Platform -> FFmpeg's names for its cameras and for camera N."""


@dataclass(frozen=True)
class Camera:
    """A camera.

    Args:
        address: its URL, or its number.
        name: its name in files and messages, without a password.
    """

    address: str
    name: str


def camera_of(given: str) -> Camera | None:
    """The camera that an argument of ``predict`` refers to; ``None`` if it refers to a file.

    >>> camera_of("webcam"), camera_of("photo.jpg")
    (Camera(address='0', name='webcam-0'), None)
    >>> camera_of("rtsp://me:secret@camera.local:8554/live?x=1").name
    'camera.local-8554-live'
    """
    if given == "webcam" or (re.fullmatch(r"\d{1,3}", given, re.ASCII) and not Path(given).exists()):
        number = 0 if given == "webcam" else int(given)
        return Camera(str(number), f"webcam-{number}")
    scheme, separator, _ = given.partition("://")
    if not separator or scheme.lower() not in SCHEMES:
        return None
    parts = urlsplit(given)
    place = parts.netloc.rpartition("@")[2] + parts.path
    return Camera(given, re.sub(r"[^\w.]+", "-", place, flags=re.ASCII).strip("-.")[:80] or scheme.lower())


def camera_frames(camera: Camera, *, say: Callable[[str], object] = lambda line: None) -> Iterator[Frame]:
    """Yield the frames of a camera until the stream ends or Ctrl-C is pressed, which stops only the camera.

    Args:
        say: prints a line when the camera is connected, and one when it ends.

    Raises:
        InputError: PyAV is missing, or the camera cannot be reached, or sends no pictures or too large ones.
    """
    av = import_av(camera.name)
    count = 0
    with _ended_by_ctrl_c() as ended:
        try:
            with _opened(av, camera) as container:
                if not container.streams.video:
                    raise InputError(f"{camera.name}: sends no pictures")
                stream = container.streams.video[0]
                rate = stream.average_rate or Fraction(25)
                start: float | None = None
                size = f"{stream.width} x {stream.height} px"
                say(f"{camera.name}: {size}, {float(rate):.0f} frames a second; Ctrl-C ends")
                for frame in container.decode(stream):
                    if ended.is_set():
                        break
                    if frame.width * frame.height > MAX_PIXELS:
                        raise InputError(f"{camera.name}: more than {MAX_PIXELS:,} pixels per frame")
                    now = float(count / rate) if frame.time is None else frame.time
                    start = now if start is None else start
                    count += 1
                    pixels = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
                    yield Frame(pixels, max(now - start, 0.0), rate)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            if not count:
                raise InputError(f"{camera.name}: {_remedy(camera)} ({reason_of(error)})") from error
            say(f"{camera.name}: lost after {count:,} frames ({reason_of(error)})")
            return
    if not count:
        raise InputError(f"{camera.name}: sent no picture")
    say(f"{camera.name}: ended after {count:,} frames")


def _opened(av: Any, camera: Camera) -> Any:
    if not camera.address.isdigit():
        return av.open(camera.address, options=_NETWORK, timeout=(OPEN_S, READ_S))
    if sys.platform not in _CAMERAS:
        raise InputError(f"{camera.name}: cameras of this machine are read on Linux and macOS; give an rtsp:// address")
    format, device = _CAMERAS[sys.platform]
    return av.open(device.format(camera.address), format=format, timeout=(OPEN_S, READ_S))


def _remedy(camera: Camera) -> str:
    if not camera.address.isdigit():
        return "no camera answers there; check the address, with user and password if it needs them"
    there = sorted(path.name for path in Path("/dev").glob("video*")) if sys.platform == "linux" else []
    known = f"; there are {', '.join(there)}" if there else ""
    return f"there is no such camera, or another program uses it{known}"


@contextmanager
def _ended_by_ctrl_c() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that the results so far can be written."""
    ended = threading.Event()
    try:
        before = signal.signal(signal.SIGINT, lambda signum, frame: _second(ended))
    except ValueError:  # not the main thread
        yield ended
        return
    try:
        yield ended
    finally:
        signal.signal(signal.SIGINT, before)


def _second(ended: threading.Event) -> None:
    if ended.is_set():
        raise KeyboardInterrupt
    ended.set()
