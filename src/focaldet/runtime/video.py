"""Videos, frame by frame, by PyAV (``pip install 'focaldet[video]'``)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focaldet.checks import InputError, one_line
from focaldet.files import replacing
from focaldet.photos.images import MAX_PIXELS

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"})
"""File names that are taken for videos."""


@dataclass(frozen=True)
class Frame:
    """One picture of a video.

    Args:
        photo: ``(H, W, 3)`` uint8 RGB, upright.
        seconds: since the video's start.
        rate: frames a second of the whole video.
    """

    photo: NDArray[np.uint8]
    seconds: float
    rate: Fraction


def read_video(file: Path) -> Iterator[Frame]:
    """The frames of a video's first picture track.

    Raises:
        InputError: PyAV is missing, or the file is no video, damaged, or too large.
    """
    av = _av(file)
    if file.exists() and not file.is_file():  # a FIFO would be waited for without end
        raise InputError(f"{file}: not a regular file; give the video's own file")
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise InputError(f"{file}: a file without pictures")
            stream = container.streams.video[0]
            rate = stream.average_rate or Fraction(25)
            if stream.width * stream.height > MAX_PIXELS:
                raise InputError(f"{file}: more than {MAX_PIXELS:,} pixels a frame; scale it down")
            for number, frame in enumerate(container.decode(stream)):
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                seconds = float(number / rate) if frame.time is None else frame.time
                yield Frame(np.ascontiguousarray(pixels), seconds, rate)
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"{file}: not a video that can be read ({one_line(error)})") from error


def write_video(file: Path, pictures: Iterable[tuple[Image.Image, Fraction]]) -> None:
    """Write an MP4 (H.264) of pictures of one size and their rate; whole or not at all."""
    av = _av(file)
    with replacing(file) as beside, av.open(str(beside), "w", format="mp4") as container:
        stream: Any = None
        for picture, rate in pictures:
            if stream is None:
                stream = container.add_stream("libx264", rate=rate, options={"crf": "20"})
                stream.width, stream.height = (side + side % 2 for side in picture.size)  # its colours are of 2 x 2
                stream.pix_fmt = "yuv420p"
            even = picture.crop((0, 0, stream.width, stream.height))
            container.mux(stream.encode(av.VideoFrame.from_image(even)))
        if stream is not None:
            container.mux(stream.encode())


def _av(file: Path) -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise InputError(f"{file}: videos are read by PyAV, which is missing: pip install 'focaldet[video]'") from error
    return av
