"""Batches from loader workers arrive intact, without a copy or a file for each small tensor."""

from multiprocessing.reduction import ForkingPickler

import torch
from torch.utils.data import DataLoader

from focaldet.data.sending import SMALL, send_small_tensors_by_value, sendable


class Made(torch.utils.data.Dataset):
    """Returns whether a tensor made in the loading process is shared, with a small and a large tensor."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int):
        made = sendable((2, SMALL), torch.uint8)
        made[:] = index
        return made.is_shared(), made, torch.tensor([index, 7]), torch.full((SMALL,), index)


def test_a_worker_shares_the_batch_and_sends_the_rest_by_value():
    loader = DataLoader(Made(), None, num_workers=1, worker_init_fn=lambda index: send_small_tensors_by_value())
    for index, (was_shared, made, small, large) in enumerate(loader):
        assert was_shared
        assert made.is_shared()
        assert made.shape == (2, SMALL)
        assert bool((made == index).all())
        assert not small.is_shared()
        assert small.tolist() == [index, 7]
        assert large.is_shared()
        assert large.tolist() == [index] * SMALL


def test_without_workers_nothing_is_shared_and_pickling_stays_as_it_was():
    assert not sendable((2, 3), torch.float32).is_shared()
    assert sendable((2, 3), torch.float32).shape == (2, 3)
    assert b"from_numpy" not in bytes(ForkingPickler.dumps(torch.zeros(3)))
