"""Photos of a request in windows: received into a file, read in parts, and batched with other requests' windows."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fastapi import HTTPException, Request

from focaldet.checks import InputError
from focaldet.photos.images import read_header
from focaldet.photos.limits import MAX_REGION_PIXELS
from focaldet.photos.regions import PhotoRegions, open_regions
from focaldet.photos.tiling import Window
from focaldet.runtime.model import DetectionArrays, Model
from focaldet.runtime.windows import PhotoMerge, Tiling, prepare_view
from focaldet.scratch import scratch
from focaldet.serve.batching import Batcher
from focaldet.serve.limits import Limits
from focaldet.serve.uploads import Uploads, check_pixels
from focaldet.system.cores import cores


class Found(NamedTuple):
    """The result for a photo.

    Args:
        boxes: its detections.
        photo_size: (height, width).
        problem: the part of it that could not be read, or "".
    """

    boxes: DetectionArrays
    photo_size: tuple[int, int]
    problem: str


class WindowedPhotos:
    """Detects in the photos of requests. At most one photo per core is processed at a time, since each needs disk space
    for its pixels.

    Args:
        model: the detector.
        tiling: its windows.
        batcher, decoders: run the network and read windows.
        limits: limits on requests.
    """

    def __init__(self, model: Model, tiling: Tiling, batcher: Batcher, decoders: Executor, limits: Limits) -> None:
        self._model, self._tiling, self._batcher, self._decoders = model, tiling, batcher, decoders
        self._limits = limits
        self._places = asyncio.Semaphore(cores())

    async def detect(self, file: Path) -> Found:
        """Detect in a photo.

        Raises:
            InputError: it is not a photo; the message names no file.
            HTTPException: it has too many pixels.
        """
        loop = asyncio.get_running_loop()
        async with self._places:
            try:
                photo = await loop.run_in_executor(self._decoders, _opened, file, self._limits)
                with photo:
                    boxes = await self._merged(photo)
                    return Found(boxes, (photo.size[1], photo.size[0]), _without_name(photo.problem, file))
            except InputError as error:
                raise InputError(_without_name(str(error), file)) from None

    async def _merged(self, photo: PhotoRegions) -> DetectionArrays:
        merge = PhotoMerge(self._tiling, photo.size)
        windows = iter(self._tiling.views(photo.size))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._limits.batch + cores()):  # a batch for the network, and windows being read
                    group.create_task(self._work(photo, windows, merge))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return merge.result()

    async def _work(self, photo: PhotoRegions, windows: Iterator[Window], merge: PhotoMerge) -> None:
        loop = asyncio.get_running_loop()
        for window in windows:
            seen = await loop.run_in_executor(self._decoders, prepare_view, self._model, photo, window, self._tiling)
            merge.add(window, await self._batcher.detect(seen))


@contextmanager
def upload_file() -> Iterator[tuple[BinaryIO, Path]]:
    """A file for an upload, which is removed afterwards."""
    with ExitStack() as stack:
        path = stack.enter_context(scratch()) / "upload"
        yield stack.enter_context(path.open("w+b")), path


async def receive_file(uploads: Uploads, request: Request, file: BinaryIO) -> None:
    """Receive the body of a request into a file.

    Raises:
        HTTPException: as ``Uploads.receive``, or the disk is full.
    """
    try:
        await uploads.receive(request, file.write)
        file.flush()
    except OSError as error:
        raise HTTPException(503, f"no room for the upload ({error.strerror}); try again later") from error


def _opened(file: Path, limits: Limits) -> PhotoRegions:
    if not file.stat().st_size:
        raise InputError("the body is empty; send the photo file as the body")
    check_pixels(read_header(file, most=MAX_REGION_PIXELS), limits)
    return open_regions(file)


def _without_name(line: str, file: Path) -> str:
    return line.replace(str(file), "image")
