"""Progress of a training run, on a terminal and in a log."""

import os
import pty
import re
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from focaldet.cli import main
from focaldet.engine.budget import TimeBudget
from focaldet.engine.config import TrainConfig
from focaldet.engine.progress import RunBar, RunLines, progress_display


class Terminal:
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_a_file_gets_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = TimeBudget(None)
    with (tmp_path / "log").open("w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        assert isinstance(progress_display(clock, print), RunLines)
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert isinstance(progress_display(clock, print), RunBar)


def test_a_line_tells_epoch_step_time_left_losses_and_learning_rate() -> None:
    said: list[str] = []
    lines, trainer, module = display(said, every_s=0)
    lines.clock.before_s = 100 * 60
    step(lines, trainer, module)
    assert said == ["epoch 3, step 57, 100.0 minutes left: lr 0.0015, loss 2.346, class 1.2"]


def test_lines_are_half_a_minute_apart_however_many_steps_there_are() -> None:
    said: list[str] = []
    lines, trainer, module = display(said)
    for second in range(100):
        lines.clock.before_s = second
        step(lines, trainer, module)
    assert len(said) == 3


def test_only_the_first_of_several_processes_writes_lines() -> None:
    said: list[str] = []
    lines, trainer, module = display(said, every_s=0, first=False)
    step(lines, trainer, module)
    assert not said


def display(said: list[str], every_s: float = 30.0, *, first: bool = True) -> tuple[RunLines, Any, Any]:
    """The lines of a run that is half done."""
    lines = RunLines(TimeBudget(None), said.append, every_s)
    values = {"lr": 0.0015, "loss": 2.34567, "class": 1.2}
    trainer = SimpleNamespace(is_global_zero=first, current_epoch=2, global_step=57)
    module = SimpleNamespace(progress=0.5, shown=values)
    lines.setup(trainer, module, "fit")  # type: ignore[arg-type]
    lines.on_train_start(trainer, module)  # type: ignore[arg-type]
    return lines, trainer, module


def step(lines: RunLines, trainer: Any, module: Any) -> None:
    lines.on_train_batch_end(trainer, module, None, None, 0)


@pytest.mark.slow
def test_a_run_into_a_file_draws_no_bar(config: TrainConfig, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(replace(config, epochs=2).to_yaml())
    assert main(["train", "--config", str(tmp_path / "small.yaml")]) == 0
    shown = capfd.readouterr()
    assert "\r" not in shown.out + shown.err
    assert "it/s" not in shown.out + shown.err


@pytest.mark.slow
def test_a_run_on_a_terminal_draws_its_bar_with_losses_and_time_left(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(config.to_yaml())
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "focaldet", "train", "--config", str(tmp_path / "small.yaml")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    termios.tcsetwinsize(theirs, (50, 200))
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # its end
            break
    assert process.wait() == 0, shown
    assert re.search(rb"\rEpoch 3: 100%.* 2/2 .*left=0:\d\d, lr=.*loss=.*class=.*box=.*distribution=", shown)
