"""Read and write videos frame by frame, with PyAV (``pip install 'focaldet[video]'``)."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focaldet.checks import InputError, one_line
from focaldet.files import open_regular, replacing
from focaldet.photos.limits import MAX_PIXELS

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"})
"""Suffixes of files that are treated as videos."""

_ONLY_THIS_FILE = {"format_whitelist": "mov,avi,matroska,mpeg,mpegts,mpegvideo", "protocol_whitelist": "none"}
"""FFmpeg options that allow only formats with embedded pictures. Others list files or addresses (HLS, concat)."""


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Args:
        photo: ``(H, W, 3)`` uint8 RGB, upright.
        seconds: time since the start of the video.
        rate: frames per second of the whole video.
    """

    photo: NDArray[np.uint8]
    seconds: float
    rate: Fraction


def read_video(file: Path, *, note: Callable[[str], object] = lambda line: None) -> Iterator[Frame]:
    """Yield the frames of the first video track.

    Args:
        note: called with a line about a truncated video.

    Raises:
        InputError: PyAV is missing, or the file is not a video, damaged or too large.
    """
    av = import_av(file)
    count, seconds, stated = 0, 0.0, 0
    try:
        # The open file, because FFmpeg interprets some names as addresses or lists (concat:a.mp4|b.mp4).
        with open_regular(file) as opened, av.open(opened, options=_ONLY_THIS_FILE) as container:
            if not container.streams.video:
                raise InputError(f"{file}: contains no pictures")
            stream = container.streams.video[0]
            rate = stream.average_rate or Fraction(25)
            stated, slack = _stated_frames(container, stream, rate)
            for number, frame in enumerate(container.decode(stream)):
                count = number + 1
                if frame.width * frame.height > MAX_PIXELS:
                    raise InputError(f"{file}: more than {MAX_PIXELS:,} pixels per frame; scale it down")
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                seconds = float(number / rate) if frame.time is None else frame.time
                yield Frame(np.ascontiguousarray(pixels), seconds, rate)
            if count < stated - slack and seconds * rate < stated - 1 - slack:
                note(f"{file}: ends after {count} of about {stated} frames; fetch it again")
    except (av.error.FFmpegError, OSError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        whole = f" of about {stated}" if stated > count else ""
        what = f"damaged after {count}{whole} frames" if count else "not a readable video"
        raise InputError(f"{file}: {what} ({reason_of(error)}); fetch it again") from error


def _stated_frames(container: Any, stream: Any, rate: Fraction) -> tuple[int, float]:
    """Number of frames according to the header, and how many fewer a complete file may have."""
    if stream.frames and "mp4" in container.format.name and stream.duration:
        # The header survives truncation. An edit list may hide some of the frames.
        return min(stream.frames, int(stream.duration * stream.time_base * rate)), 2
    if stream.frames:
        return stream.frames, 2
    # The length of the longest track, which need not be the video track.
    return int((container.duration or 0) / 1_000_000 * rate), float(rate)


def reason_of(error: Exception) -> str:
    """FFmpeg's message without error number and function name."""
    return re.sub(r"^\[Errno \d+\] |: '.*'$", "", one_line(error))


def write_video(file: Path, pictures: Iterable[tuple[Image.Image, Fraction]]) -> None:
    """Write an MP4 (H.264) from pictures of one size with their frame rate. An incomplete file is never left."""
    av = import_av(file)
    with replacing(file) as beside, beside.open("wb") as opened, av.open(opened, "w", format="mp4") as container:
        stream: Any = None
        for picture, rate in pictures:
            if stream is None:
                stream = container.add_stream("libx264", rate=rate, options={"crf": "20"})
                stream.width, stream.height = (
                    side + side % 2 for side in picture.size
                )  # H.264 stores colour for 2 x 2 pixels
                stream.pix_fmt = "yuv420p"
            even = picture.crop((0, 0, stream.width, stream.height))
            container.mux(stream.encode(av.VideoFrame.from_image(even)))
        if stream is not None:
            container.mux(stream.encode())


def import_av(file: Path | str) -> Any:
    """PyAV.

    Args:
        file: named in the error.

    Raises:
        InputError: it is not installed.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise InputError(f"{file}: reading videos requires PyAV: pip install 'focaldet[video]'") from error
    return av
