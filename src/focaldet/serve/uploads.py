"""Photos on their way in: how many at a time, how large, how slowly they may come, and who gives way when there are too
many. Clients that stall would otherwise keep everybody else out until their time is over."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from focaldet.serve.limits import Limits

MAX_UPLOADS = 64
"""At a time, so that their memory has a bound."""

MIN_RATE = 10_000
"""Bytes a second, on average since the request began."""

PATIENCE = 5.0
"""Seconds for which an upload may come more slowly."""

SAFE_SECONDS = 1.0
"""For which a new upload does not have to give way to another."""


@dataclass(eq=False)
class Upload:
    """A body that is being received.

    Args:
        client: its address.
        began: by the loop's clock.
        deadline: when it is given up, if it has not come.
        size: bytes that have come.
        gave_way: it was given up in favour of another.
    """

    client: str
    began: float
    deadline: asyncio.Timeout
    size: int = 0
    gave_way: bool = False


class Uploads:
    """The bodies that one server is receiving."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._there: set[Upload] = set()

    async def receive(self, request: Request) -> bytes:
        """The bytes of a request, never more of them than are taken.

        Raises:
            HTTPException: there are too many, they come too slowly, or not as the photo's own bytes.
        """
        most = int(self._limits.megabytes * 1e6)
        too_large = HTTPException(413, f"the upload has more than {self._limits.megabytes:g} MB; scale the photo down")
        if request.headers.get("content-type", "").strip().lower().startswith("multipart/"):
            raise HTTPException(415, "a form; send the photo as the body itself, as curl --data-binary @photo.jpg does")
        coding = request.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise HTTPException(415, f"a body in the encoding {coding[:20]!r}; send the photo as it is")
        stated = request.headers.get("content-length", "")
        if stated.isdecimal() and int(stated) > most:
            raise too_large
        data = bytearray()
        try:
            async with self._place(request) as upload:
                async for chunk in request.stream():
                    data += chunk
                    if len(data) > most:
                        raise too_large
                    upload.size = len(data)
                    upload.deadline.reschedule(self._deadline(upload))
        except ClientDisconnect:
            raise HTTPException(400, "the upload ended early") from None
        return bytes(data)

    @asynccontextmanager
    async def _place(self, request: Request) -> AsyncIterator[Upload]:
        """One of the places that there are."""
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
                raise _busy("the upload came more slowly than others") from None
            after = asyncio.get_running_loop().time() - upload.began
            if after < self._limits.seconds:
                raise HTTPException(
                    408, f"the photo came too slowly: {upload.size:,} bytes in {after:.0f} s; try a faster connection"
                ) from None
            raise HTTPException(408, f"the photo did not arrive within {self._limits.seconds:g} s") from None
        finally:
            self._there.discard(upload)

    def _deadline(self, upload: Upload) -> float:
        return upload.began + min(PATIENCE + upload.size / MIN_RATE, self._limits.seconds)

    def _make_room(self) -> None:
        """Give up the slowest upload of the client that has the most.

        Raises:
            HTTPException: all have only just begun.
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


def _busy(why: str) -> HTTPException:
    return HTTPException(503, f"{why}; try again", {"Retry-After": "1"})
