"""What arrives together is detected together: requests that wait while the network runs become its next batch."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from focaldet.runtime.model import Found, Model, Seen


class Batcher:
    """The network, one batch at a time.

    Nobody waits for company: a photo that comes while the network is idle is a batch of one. Only photos that the
    network sees at one size share a batch, so that a photo's boxes never depend on who else asked.

    Args:
        model: runs in a thread of its own.
        most: photos in a batch, at most.
        observe: told the size of each batch.
    """

    def __init__(self, model: Model, most: int, observe: Callable[[int], object] = lambda size: None) -> None:
        self._model, self._most, self._observe = model, most, observe
        self._waiting: list[tuple[Seen, asyncio.Future[Found]]] = []
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "network")

    async def detect(self, seen: Seen) -> Found:
        """The boxes of one photo; whoever stops waiting costs no work that has not begun."""
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting.append((seen, future))
        self._arrived.set()
        return await future

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._arrived.wait()
                batch = self._next()
                if not batch:
                    self._arrived.clear()
                    continue
                self._observe(len(batch))
                try:
                    found = await loop.run_in_executor(self._thread, self._model.detect, [seen for seen, _ in batch])
                except Exception as error:
                    _settle(batch, [error] * len(batch))
                else:
                    _settle(batch, found)
        finally:
            self._thread.shutdown(wait=False)

    def _next(self) -> list[tuple[Seen, asyncio.Future[Found]]]:
        """Takes the longest waiting photo, and those of its size, out of the line."""
        line = [entry for entry in self._waiting if not entry[1].done()]  # a request that timed out is cancelled
        batch = [entry for entry in line if entry[0].size == line[0][0].size][: self._most]
        taken = {id(entry) for entry in batch}
        self._waiting = [entry for entry in line if id(entry) not in taken]
        return batch


def _settle(batch: Sequence[tuple[Seen, asyncio.Future[Found]]], outcomes: Sequence[Found | Exception]) -> None:
    for (_, future), outcome in zip(batch, outcomes, strict=True):
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
