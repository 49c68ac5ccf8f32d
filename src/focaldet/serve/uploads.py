"""Receive photos, with limits on number, size and slowness. If there are too many, the slowest upload gives way;
otherwise stalled clients would keep everybody else out until they time out."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from focaldet.photos.images import ImageHeader
from focaldet.serve.limits import Limits

MAX_UPLOADS = 64
"""Largest number of uploads at a time, which bounds their memory."""

MIN_RATE = 10_000
"""Lowest accepted rate in bytes per second, on average since the request started."""

PATIENCE = 5.0
"""Seconds for which an upload may be slower."""

SAFE_SECONDS = 1.0
"""Seconds for which a new upload need not give way."""


@dataclass(eq=False)
class Upload:
    """A body that is being received.

    Args:
        client: address of the client.
        began: start time, by the event loop's clock.
        deadline: time limit of the upload.
        size: bytes received.
        gave_way: whether it was cancelled in favour of another upload.
    """

    client: str
    began: float
    deadline: asyncio.Timeout
    size: int = 0
    gave_way: bool = False


class Uploads:
    """The uploads in progress of one server."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._there: set[Upload] = set()

    async def receive(self, request: Request, write: Callable[[bytes], object]) -> None:
        """Receive the body of a request, up to the size limit.

        Args:
            write: receives its parts.

        Raises:
            HTTPException: the body is too large or too slow, or is a form or compressed.
        """
        most = int(self._limits.megabytes * 1e6)
        too_large = HTTPException(413, f"the upload is larger than {self._limits.megabytes:g} MB; scale the photo down")
        if request.headers.get("content-type", "").strip().lower().startswith("multipart/"):
            raise HTTPException(
                415, "the body is a form; send the photo itself as the body, like curl --data-binary @photo.jpg"
            )
        coding = request.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise HTTPException(415, f"the body is encoded as {coding[:20]!r}; send the photo without an encoding")
        stated = request.headers.get("content-length", "")
        if stated.isdecimal() and int(stated) > most:
            raise too_large
        try:
            async with self._place(request) as upload:
                async for chunk in request.stream():
                    upload.size += len(chunk)
                    if upload.size > most:
                        raise too_large
                    write(chunk)
                    upload.deadline.reschedule(self._deadline(upload))
        except ClientDisconnect:
            raise HTTPException(400, "the upload ended early") from None

    @asynccontextmanager
    async def _place(self, request: Request) -> AsyncIterator[Upload]:
        """Reserve a place for an upload, with its time limit."""
        if len(self._there) >= MAX_UPLOADS:
            self._make_room()
        now = asyncio.get_running_loop().time()
        deadline = asyncio.timeout_at(now + min(PATIENCE, self._limits.seconds))
        upload = Upload(request.client.host if request.client else "", now, deadline)
        self._there.add(upload)
        try:
            async with deadline:
                yield upload
        except TimeoutError:
            if upload.gave_way:
                raise _busy("the upload was slower than the others") from None
            after = asyncio.get_running_loop().time() - upload.began
            if after < self._limits.seconds:
                raise HTTPException(
                    408, f"the upload is too slow: {upload.size:,} bytes in {after:.0f} s; try a faster connection"
                ) from None
            raise HTTPException(408, f"the photo did not arrive within {self._limits.seconds:g} s") from None
        finally:
            self._there.discard(upload)

    def _deadline(self, upload: Upload) -> float:
        return upload.began + min(PATIENCE + upload.size / MIN_RATE, self._limits.seconds)

    def _make_room(self) -> None:
        """Cancel the slowest upload of the client with the most uploads.

        Raises:
            HTTPException: all uploads have only just started.
        """
        now = asyncio.get_running_loop().time()
        old = [upload for upload in self._there if now - upload.began > SAFE_SECONDS and not upload.gave_way]
        if not old:
            raise _busy(f"{MAX_UPLOADS} photos are being received")
        number = Counter(upload.client for upload in self._there)
        slowest = min(old, key=lambda one: (-number[one.client], one.size / (now - one.began)))
        slowest.gave_way = True
        self._there.discard(slowest)
        slowest.deadline.reschedule(now)


def check_pixels(header: ImageHeader, limits: Limits) -> None:
    """Raise HTTPException if a photo has too many pixels according to its header."""
    if header.width * header.height > limits.megapixels * 1e6:
        raise HTTPException(
            413,
            f"{header.width} x {header.height} pixels, more than {limits.megapixels:g} million; scale the photo down",
        )


def _busy(why: str) -> HTTPException:
    return HTTPException(503, f"{why}; try again", {"Retry-After": "1"})
