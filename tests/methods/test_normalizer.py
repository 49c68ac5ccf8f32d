import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from focaldet.methods.normalizer import mean_over_processes, process_count


def _means(rank, file, results):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    own = torch.tensor([3.0, 8.0][rank])
    results.put((rank, float(mean_over_processes(own)), float(own), process_count()))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_mean_of_their_totals_and_keep_their_own(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_means, args=(rank, tmp_path / "store", results)) for rank in range(2)]
    for worker in workers:
        worker.start()
    found = sorted(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(timeout=60)
    assert found == [(0, 5.5, 3.0, 2), (1, 5.5, 8.0, 2)]


def test_one_process_has_its_own_total():
    assert process_count() == 1
    assert float(mean_over_processes(torch.tensor(3.0))) == 3
