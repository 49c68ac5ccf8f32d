"""What arrives together is detected together: requests that wait while the network runs become its next batches."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from focaldet.runtime.model import Found, Model, Seen


class Batcher:
    """The network, as many batches at a time as it has lanes.

    Nobody waits for company: a photo that comes while a lane is free is a batch of one. Only photos that the network
    sees at one size share a batch, so that a photo's boxes never depend on who else asked.

    Args:
        model: runs in a thread of each lane.
        most: photos in a batch, at most.
        observe: told the size of each batch.
        lanes: each takes its share of what waits and leaves the others theirs, so that none is idle while another has
            much to do.
    """

    def __init__(
        self, model: Model, most: int, observe: Callable[[int], object] = lambda size: None, *, lanes: int = 1
    ) -> None:
        self._model, self._most, self._observe = model, most, observe
        self._waiting: list[tuple[Seen, asyncio.Future[Found]]] = []
        self._arrived = asyncio.Event()
        self._lanes = lanes
        self._threads = ThreadPoolExecutor(lanes, "network")

    async def detect(self, seen: Seen) -> Found:
        """The boxes of one photo; whoever stops waiting costs no work that has not begun."""
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting.append((seen, future))
        self._arrived.set()
        return await future

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._lanes):
                    group.create_task(self._lane())
        finally:
            self._threads.shutdown(wait=False)

    async def _lane(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch = self._next()
            if not batch:
                self._arrived.clear()
                continue
            self._observe(len(batch))
            try:
                found = await loop.run_in_executor(self._threads, self._model.detect, [seen for seen, _ in batch])
            except Exception as error:
                _settle(batch, [error] * len(batch))
            else:
                _settle(batch, found)

    def _next(self) -> list[tuple[Seen, asyncio.Future[Found]]]:
        """Takes a lane's share out of the line: the longest waiting photo, and others of its size."""
        line = [entry for entry in self._waiting if not entry[1].done()]  # a request that timed out is cancelled
        share = -(-len(line) // self._lanes)
        batch = [entry for entry in line if entry[0].size == line[0][0].size][: min(share, self._most)]
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
