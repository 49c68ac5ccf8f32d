"""Dynamic batching: requests that arrive while the network is busy form its next batches."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from focaldet.runtime.model import DetectionArrays, Model, NetworkInput


class Batcher:
    """Run the network in batches, one batch per worker at a time.

    A photo that arrives while a worker is free is processed at once, as a batch of one. A batch only contains photos of
    the same scaled size, so the boxes of a photo never depend on other requests.

    Args:
        model: the detector; each worker calls it in its own thread.
        most: largest number of photos in a batch.
        observe: called with the size of each batch.
        workers: number of batches in parallel. Each worker takes an equal share of the waiting photos, so that no
            worker is idle while another one is overloaded.
    """

    def __init__(
        self, model: Model, most: int, observe: Callable[[int], object] = lambda size: None, *, workers: int = 1
    ) -> None:
        self._model, self._most, self._observe = model, most, observe
        self._waiting: list[tuple[NetworkInput, asyncio.Future[DetectionArrays]]] = []
        self._arrived = asyncio.Event()
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers, "network")

    async def detect(self, seen: NetworkInput) -> DetectionArrays:
        """The boxes of one photo. A request cancelled before its batch starts costs no work."""
        future: asyncio.Future[DetectionArrays] = asyncio.get_running_loop().create_future()
        self._waiting.append((seen, future))
        self._arrived.set()
        return await future

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._worker())
        finally:
            self._threads.shutdown(wait=False)

    async def _worker(self) -> None:
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

    def _next(self) -> list[tuple[NetworkInput, asyncio.Future[DetectionArrays]]]:
        """Take one worker's share from the queue: the photo that has waited longest, and more of the same size."""
        line = [entry for entry in self._waiting if not entry[1].done()]  # a request that timed out is cancelled
        share = -(-len(line) // self._workers)
        batch = [entry for entry in line if entry[0].size == line[0][0].size][: min(share, self._most)]
        taken = {id(entry) for entry in batch}
        self._waiting = [entry for entry in line if id(entry) not in taken]
        return batch


def _settle(
    batch: Sequence[tuple[NetworkInput, asyncio.Future[DetectionArrays]]],
    outcomes: Sequence[DetectionArrays | Exception],
) -> None:
    for (_, future), outcome in zip(batch, outcomes, strict=True):
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
