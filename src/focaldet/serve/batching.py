"""Dynamic batching: requests that arrive while the network is busy form its next batches."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from focaldet.runtime.model import Found, Model, Seen


class Batcher:
    """Run the network in batches, one batch per lane at a time.

    A photo that arrives while a lane is free is processed at once, as a batch of one. A batch only contains photos of
    the same scaled size, so the boxes of a photo never depend on other requests.

    Args:
        model: the detector; each lane calls it in its own thread.
        most: largest number of photos in a batch.
        observe: called with the size of each batch.
        lanes: number of batches in parallel. Each lane takes an equal share of the waiting photos, so that no lane is
            idle while another one is overloaded.
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
        """The boxes of one photo. A request that is cancelled before its batch starts costs no work."""
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
        """Take one lane's share from the queue: the photo that has waited longest, and others of the same size."""
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
