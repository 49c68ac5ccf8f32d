"""Which photos share a batch."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence

import numpy as np
import pytest

from focaldet.runtime.model import DetectionArrays, NetworkInput
from focaldet.serve.batching import Batcher


class Gated:
    """A network that waits to be let on, and notes what it was given; a photo is found as a box with its number."""

    class_names = ("cell",)

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()

    def prepare(self, photo: np.ndarray) -> NetworkInput:
        raise NotImplementedError

    def detect(self, batch: Sequence[NetworkInput]) -> list[DetectionArrays]:
        self.gate.wait(10)
        self.batches.append([seen.pixels for seen in batch])
        if -1 in self.batches[-1]:
            raise RuntimeError("no network for minus one")
        return [
            DetectionArrays(np.full((1, 4), seen.pixels), np.ones(1), np.zeros(1, np.int64), None) for seen in batch
        ]


def photo(number: int, width: int = 64) -> NetworkInput:
    return NetworkInput(number, (48, width), (480, 10 * width))


def run(network: Gated, ask: Callable[[Batcher], Coroutine], most: int = 4, workers: int = 1) -> object:
    async def serve() -> object:
        batcher = Batcher(network, most, workers=workers)
        task = asyncio.create_task(batcher.run())
        try:
            return await ask(batcher)
        finally:
            task.cancel()

    return asyncio.run(serve())


async def first_then(batcher: Batcher, network: Gated, photos: Sequence[NetworkInput]) -> list:
    """Ask for photo 0, and while the network holds it, for the others."""
    asked = [asyncio.create_task(batcher.detect(photo(0)))]
    await asyncio.sleep(0.05)
    asked += [asyncio.create_task(batcher.detect(one)) for one in photos]
    await asyncio.sleep(0.05)
    network.gate.set()
    return await asyncio.gather(*asked, return_exceptions=True)


def test_photos_that_wait_while_the_network_runs_are_its_next_batch() -> None:
    network = Gated()
    found = run(network, lambda b: first_then(b, network, [photo(n) for n in range(1, 7)]))
    assert network.batches == [[0], [1, 2, 3, 4], [5, 6]]
    assert [f.boxes_xyxy[0, 0] for f in found] == list(range(7))


def test_only_photos_of_one_size_share_a_batch_and_none_is_overtaken_for_long() -> None:
    network = Gated()
    others = [photo(1), photo(2, width=32), photo(3), photo(4, width=32)]
    found = run(network, lambda b: first_then(b, network, others))
    assert network.batches == [[0], [1, 3], [2, 4]]
    assert [f.boxes_xyxy[0, 0] for f in found] == [0, 1, 2, 3, 4]


def test_lanes_share_what_waits_and_run_at_the_same_time() -> None:
    network = Gated()
    both = threading.Barrier(2)
    network.gate.wait = lambda timeout: both.wait(timeout)  # neither goes on before the other is there

    async def ask(batcher: Batcher) -> list[DetectionArrays]:
        return await asyncio.gather(*(batcher.detect(photo(n)) for n in range(3)))

    found = run(network, ask, workers=2)
    assert sorted(network.batches) == [[0, 1], [2]]
    assert [f.boxes_xyxy[0, 0] for f in found] == list(range(3))


def test_a_photo_alone_does_not_wait() -> None:
    network = Gated()
    network.gate.set()
    run(network, lambda b: asyncio.wait_for(b.detect(photo(5)), 5))
    assert network.batches == [[5]]


def test_a_request_that_gave_up_costs_no_work() -> None:
    network = Gated()

    async def ask(batcher: Batcher) -> None:
        asked = [asyncio.create_task(batcher.detect(photo(n))) for n in range(3)]
        await asyncio.sleep(0.05)
        asked[1].cancel()
        network.gate.set()
        await asyncio.gather(*asked, return_exceptions=True)
        await batcher.detect(photo(9))

    run(network, ask, most=1)
    assert network.batches == [[0], [2], [9]]


def test_a_batch_that_fails_fails_alone() -> None:
    network = Gated()
    found = run(network, lambda b: first_then(b, network, [photo(-1), photo(1), photo(2, width=32)]))
    assert network.batches == [[0], [-1, 1], [2]]
    assert [isinstance(one, Exception) for one in found] == [False, True, True, False]
    with pytest.raises(RuntimeError, match="minus one"):
        raise found[1]
