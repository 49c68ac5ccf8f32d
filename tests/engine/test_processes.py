"""Runs on two processes of this machine, started from the command line as users do."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cell_photos import write_cells
from focaldet.checks import InputError
from focaldet.data.batching import TrainingSampler
from focaldet.engine.config import TrainConfig
from focaldet.engine.processes import RANKS, is_first_process, lost_process_in_one_line
from focaldet.engine.train import train


@pytest.fixture
def eight(tmp_path: Path) -> TrainConfig:
    """Eight photos in one batch, so that a line of metrics is a step; the second process begins without an object."""
    data = write_cells(tmp_path / "eight", {"train": range(8), "val": range(8, 9)})
    names = (data / "ImageSets" / "Main" / "train.txt").read_text().split()
    for draw in TrainingSampler(8, batch_size=4, seed=0, num_replicas=2, rank=1):
        file = data / "Annotations" / f"{names[draw.photo]}.xml"
        file.write_text(re.sub(r"<object>.*</object>", "", file.read_text(), flags=re.DOTALL))
    return TrainConfig(
        data=str(data),
        backbone="regnetx_002",
        size=64,
        levels="p3-p7",
        channels=16,
        head_depth=1,
        epochs=3,
        val_every=10,
        lr=1e-3,
        seed=0,
        device="cpu",
        precision="32-true",  # the default is bfloat16 on CPUs with AMX, where a sum in another order is another number
    )


Process = subprocess.Popen[str]
Start = Callable[[TrainConfig, Path], Process]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts ``focaldet train`` on two processes in a new folder, as a process group of its own."""
    started: list[Process] = []

    def start(config: TrainConfig, folder: Path) -> Process:
        folder.mkdir()
        file = folder / "config.yaml"
        file.write_text(replace(config, devices=2, batch=config.batch // 2).to_yaml())
        process = subprocess.Popen(
            [sys.executable, "-m", "focaldet", "train", "--config", str(file)],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):  # all of them have ended, as they should
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights_and_moments(run: Path) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The tensors of the network, and AdamW's mean gradients as one vector."""
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    moments = [state["exp_avg"].flatten() for state in checkpoint["optimizer_states"][0]["state"].values()]
    return checkpoint["state_dict"], torch.cat(moments)


@pytest.mark.slow
def test_two_processes_at_batch_4_train_as_one_at_batch_8(eight: TrainConfig, start: Start, tmp_path: Path) -> None:
    frozen, synchronised = replace(eight, freeze_norm=True), eight
    folders = tmp_path / "frozen", tmp_path / "synchronised"
    processes = [start(config, folder) for config, folder in zip((frozen, synchronised), folders, strict=True)]
    one = [
        train(replace(config, out=str(folder / "one")), say=lambda line: None)
        for config, folder in zip((frozen, synchronised), folders, strict=True)
    ]
    for process in processes:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert output.count("report: ") == 1
        assert output.count("training gfl") == 1
    two = [next(folder.glob("runs/*")) for folder in folders]
    assert [len(list(folder.glob("runs/*"))) for folder in folders] == [1, 1]  # all processes chose one number
    assert_same_training(one[0], two[0], moments_apart=1e-4, most_apart=0.01)
    # AdamW divides a gradient by its own size, so a weight whose gradient is rounding error goes either way at the full
    # learning rate; through batch norms of random weights that is felt in the next step's gradients.
    assert_same_training(one[1], two[1], moments_apart=2e-2, most_apart=2)


def assert_same_training(one: Path, two: Path, *, moments_apart: float, most_apart: float) -> None:
    """Equal losses of each step, gradients and weights.

    Args:
        moments_apart: largest difference of the gradients' running means, as a share of their norm.
        most_apart: largest difference of a weight, as a share of the way AdamW can move it: the sum of learning rates.
    """
    expected, found = lines_of(one), lines_of(two)
    assert len(expected) == len(found) == 3
    for line, other in zip(expected, found, strict=True):
        assert line["lr"] == other["lr"]
        assert line["objects"] == other["objects"] > 0
        assert line["objects_without_positive"] == other["objects_without_positive"]
        # The sums are taken in another order; six digits are kept in the file.
        assert other["train"] == pytest.approx(line["train"], rel=2e-5)

    weights, moments = weights_and_moments(one)
    others, other_moments = weights_and_moments(two)
    assert (moments - other_moments).norm() < moments_apart * moments.norm()
    assert weights.keys() == others.keys()
    travel = sum(line["lr"] for line in expected)
    names = [name for name in weights if name.startswith("net.") and "running" not in name and "num_b" not in name]
    apart = torch.cat([(weights[name] - others[name]).abs().flatten() for name in names])
    assert apart.max() < most_apart * travel
    assert (apart > 0.01 * travel).double().mean() < 0.005
    for name in (name for name in weights if "running_" in name):
        torch.testing.assert_close(others[name], weights[name], rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_both_with_one_line(eight: TrainConfig, start: Start, tmp_path: Path) -> None:
    process = start(replace(eight, lr=1e30, clip=0, warmup=0, epochs=10), tmp_path / "here")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2, errors
    assert errors.count("focaldet: step ") == 1
    assert "Traceback" not in errors


@pytest.mark.slow
def test_interrupt_of_the_group_stops_both_after_the_same_step(
    eight: TrainConfig, start: Start, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(replace(eight, epochs=5000, val_every=5000, out=str(run)), tmp_path / "here")
    deadline = time.monotonic() + 300
    while not (run / "metrics.jsonl").exists() or len(lines_of(run)) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert output.count("stopping after this step") == 1
    assert f"report: {run / 'report.html'}" in output
    assert "Traceback" not in errors
    assert (run / "evaluation.json").exists()


@pytest.mark.parametrize("name", RANKS)
def test_only_the_process_with_rank_0_in_all_is_the_first(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    one, two = TrainConfig(data="photos"), TrainConfig(data="photos", devices=2)
    for other in RANKS:
        monkeypatch.setenv(other, "0")
    assert is_first_process(two)
    monkeypatch.setenv(name, "1")
    assert not is_first_process(two)
    assert is_first_process(one)  # a run of its own, whatever started it


def test_a_lost_connection_is_one_line_of_the_first_process(monkeypatch: pytest.MonkeyPatch) -> None:
    two = TrainConfig(data="photos", devices=2)
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:1")
    with pytest.raises(InputError, match="another process of the run failed"), lost_process_in_one_line(two):
        raise lost
    with pytest.raises(RuntimeError, match="shapes"), lost_process_in_one_line(two):
        raise RuntimeError("shapes do not fit")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit), lost_process_in_one_line(two):
        raise lost
