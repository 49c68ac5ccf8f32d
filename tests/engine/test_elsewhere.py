"""Other systems, as far as this one can imitate them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from focaldet.engine.config import TrainConfig

LIKE_WINDOWS = """
import multiprocessing, os, sys

for name in ("fcntl", "resource", "grp", "pwd"):
    sys.modules[name] = None
for name in ("sched_getaffinity", "O_NOFOLLOW", "O_NONBLOCK"):  # torch would miss more on a system that has it
    if hasattr(os, name):
        delattr(os, name)

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    multiprocessing.get_all_start_methods = lambda: ["spawn"]
    from focaldet.cli import main

    sys.exit(main(sys.argv[1:]))
"""
"""A Python without Unix-only modules. Its child processes start with these lines too."""


@pytest.fixture
def like_windows(tmp_path: Path) -> list[str]:
    (tmp_path / "main.py").write_text(LIKE_WINDOWS)
    return [sys.executable, str(tmp_path / "main.py")]


@pytest.mark.slow
def test_a_run_is_trained_and_used_without_what_is_unix_s_own(
    like_windows: list[str], config: TrainConfig, cells: Path, tmp_path: Path
) -> None:
    """Its two workers are spawned, as on Windows and macOS."""
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    options = ["--config", str(tmp_path / "config.yaml"), "--epochs", "2", "--workers", "2"]
    done = subprocess.run([*like_windows, "train", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1]
    assert not [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
    photo = next((cells / "JPEGImages").iterdir())
    use = ["predict", str(tmp_path / "run"), str(photo), "--out", str(tmp_path / "found")]
    done = subprocess.run([*like_windows, *use], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "found" / "predictions.json").exists()


@pytest.mark.slow
def test_spawned_workers_load_what_the_process_itself_loads(cells: Path, tmp_path: Path) -> None:
    code = (
        "import sys, torch, multiprocessing\n"
        "from torch.utils.data import DataLoader\n"
        "from focaldet.data.folder import read_folder\n"
        "from focaldet.data.batching import DetectionDataset, TrainingSampler, collate\n"
        "from focaldet.data.transforms import TrainTransform\n"
        "from focaldet.engine.interruption import begin_worker\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method('spawn')\n"
        "    data = DetectionDataset(read_folder(sys.argv[1]).splits['train'], TrainTransform(64), seed=3)\n"
        "    assert data._images._block.is_shared()\n"  # all workers read the same photos
        "    def batches(workers):\n"
        "        sampler = TrainingSampler(len(data), batch_size=2, seed=3)\n"
        "        return list(DataLoader(data, batch_size=2, sampler=sampler, collate_fn=collate, num_workers=workers,\n"
        "                               worker_init_fn=begin_worker))\n"
        "    for own, theirs in zip(batches(0), batches(2), strict=True):\n"
        "        assert torch.equal(own.images, theirs.images)\n"
        "        assert torch.equal(own.truth.boxes_xyxy, theirs.truth.boxes_xyxy)\n"
    )
    (tmp_path / "load.py").write_text(code)
    command = [sys.executable, str(tmp_path / "load.py"), str(cells)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
