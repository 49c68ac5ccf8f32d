import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from power import train_until_power_is_lost
from safetensors.torch import load_file

from focaldet.checks import InputError
from focaldet.data.folder import read_folder
from focaldet.engine import advice
from focaldet.engine.config import TrainConfig, load_config
from focaldet.engine.detector import Detector
from focaldet.engine.evaluate import evaluate_split
from focaldet.engine.optimizer import FINAL_LR
from focaldet.engine.train import _make_run_folder, train

TIMES = ("minutes", "images_per_second", "seconds", "peak_memory_mb")
"""Fields of a line of metrics.jsonl that no two runs have in common."""


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def timeless(run: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines_of(run)]


def same_tensors(a: Any, b: Any) -> bool:
    """Equality to the bit of two checkpoints, through all their containers."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_tensors(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same_tensors(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def assert_same_run(one: Path, other: Path) -> None:
    weights, others = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert same_tensors(weights, others)
    first, second = (torch.load(run / "last.ckpt", weights_only=True) for run in (one, other))
    for key in ("state_dict", "optimizer_states", "epoch", "global_step"):
        assert same_tensors(first[key], second[key]), key
    assert timeless(one) == timeless(other)


def start(config: TrainConfig, *options: str, new_session: bool = False) -> "subprocess.Popen[str]":
    """``focaldet train`` in a process of its own."""
    file = Path(config.data).parent / f"{Path(config.out or '').name}.yaml"
    file.write_text(config.to_yaml())
    command = [sys.executable, "-m", "focaldet", "train", "--config", str(file), *options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=new_session,
    )


def wait_for_lines(run: Path, count: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() or len(lines_of(run)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_leaves_its_files(trained: Path) -> None:
    expected = "config.yaml metrics.jsonl model.safetensors model.json last.ckpt evaluation.json predictions.json"
    for name in [*expected.split(), "truth.json", "splits.json"]:
        assert (trained / name).stat().st_size, name
    assert not [file for file in trained.iterdir() if file.name.startswith(".")]


def test_a_line_of_metrics_for_each_epoch(trained: Path) -> None:
    lines = lines_of(trained)
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert [line["val"] is None for line in lines] == [True, False, True, False]
    for line in lines:
        terms = line["train"]
        assert terms["loss"] == pytest.approx(terms["class"] + terms["box"] + terms["distribution"], abs=2e-5)


def test_config_yaml_is_the_whole_configuration(trained: Path) -> None:
    config = load_config(trained / "config.yaml")
    assert (config.out, config.batch, config.val_every) == (str(trained), 2, 2)
    assert (trained / "config.yaml").read_text() == config.to_yaml()


@pytest.mark.slow
def test_two_runs_of_a_seed_are_equal_to_the_bit(trained: Path, again: Callable[..., Path]) -> None:
    assert_same_run(trained, again())


@pytest.mark.slow
def test_another_seed_gives_other_weights(trained: Path, again: Callable[..., Path]) -> None:
    other = again(seed=1, epochs=1)
    weights, others = load_file(trained / "model.safetensors"), load_file(other / "model.safetensors")
    name = next(key for key in weights if weights[key].ndim == 4)
    assert not torch.equal(weights[name], others[name])


@pytest.mark.slow
def test_bfloat16_trains_and_clips(again: Callable[..., Path], tmp_path: Path) -> None:
    free_run, clipped_run = (
        again(epochs=1, precision="bf16-mixed", clip=clip, out=str(tmp_path / f"clip-{clip}")) for clip in (0.0, 1e-12)
    )
    free, clipped = (load_file(run / "model.safetensors") for run in (free_run, clipped_run))
    assert all(tensor.isfinite().all() for tensor in free.values())
    assert not same_tensors(free, clipped)  # steps of a gradient under Adam's epsilon are next to nothing


@pytest.mark.slow
def test_a_run_that_broke_in_the_third_epoch_resumes_to_the_same_bits(
    trained: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until_power_is_lost(config, monkeypatch)
    metrics = Path(config.out or "") / "metrics.jsonl"
    assert len(lines_of(metrics.parent)) == 2
    with metrics.open("a") as file:
        file.write('{"epoch": 2, "st')  # the line that the power was lost in
    assert_same_run(trained, train(replace(config, resume=True), say=lambda line: None))


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_killed_process_resumes_to_the_same_bits(config: TrainConfig, again: Callable[..., Path]) -> None:
    longer = {"epochs": 16, "val_every": 5}
    run = Path(config.out or "")
    killed = start(replace(config, **longer))
    wait_for_lines(run, 4, killed)
    killed.kill()
    killed.communicate()
    assert len(lines_of(run)) < 16
    assert_same_run(again(**longer, resume=True), again(**longer, out=f"{run}-whole"))


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_interrupt_keeps_what_was_learned(config: TrainConfig, signum: int, code: int) -> None:
    config = replace(config, epochs=2000, val_every=1000)
    run = Path(config.out or "")
    process = start(config)
    wait_for_lines(run, 3, process)
    assert select.select([process.stdout], [], [], 0)[0]  # what it says does not wait for its end
    process.send_signal(signum)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert f"report: {run / 'report.html'}" in output
    assert "Traceback" not in errors
    assert (run / "last.ckpt").exists()
    assert (run / "evaluation.json").exists()
    assert Detector.load(run).class_names == ("Platelets", "RBC", "WBC")


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_interrupt_ends_the_run_at_once_in_one_line(config: TrainConfig, signum: int, code: int) -> None:
    config = replace(config, epochs=2000, val_every=1000, workers=1)
    run = Path(config.out or "")
    process = start(config, new_session=True)
    wait_for_lines(run, 1, process)
    os.killpg(process.pid, signum)  # to the worker too, as by a terminal
    assert process.stdout is not None
    while "stopping after this step" not in (line := process.stdout.readline()):  # two at once would be one signal
        assert line
    os.killpg(process.pid, signum)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert len(errors.strip().splitlines()) <= 1
    assert "Traceback" not in output + errors
    assert "Detected" not in output + errors


@pytest.mark.slow
def test_of_two_runs_into_one_folder_one_is_refused_and_a_closed_pipe_ends_only_the_output(config: TrainConfig) -> None:
    processes = [start(config) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()  # as head -1 does
    errors = []
    for process in processes:
        with process:
            assert process.stderr is not None
            errors.append(process.stderr.read())
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 2], errors
    assert errors[codes.index(0)] == ""
    refusal = errors[codes.index(2)]
    assert "is running in this folder" in refusal or "already holds a run" in refusal
    assert len(lines_of(Path(config.out or ""))) == config.epochs


def test_a_loss_that_is_not_finite_names_step_and_term(config: TrainConfig) -> None:
    with pytest.raises(InputError, match=r"step \d+: the (class|box|distribution) loss is (nan|inf)") as caught:
        train(replace(config, lr=1e30, clip=0, warmup=0), say=lambda line: None)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_minutes_lands_the_schedule_on_the_budget(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "WARM_STEPS", 1)
    monkeypatch.setattr(advice, "TIMED_STEPS", 1)
    monkeypatch.setattr(advice, "FEW_EPOCHS", math.inf)
    said: list[str] = []
    run = train(replace(config, minutes=0.15, warmup=2, val_every=1000), say=said.append)
    (line,) = (line for line in said if "too few for a good AP" in line)
    assert line.endswith("give more --minutes, or train faster with a smaller network")
    lines = lines_of(run)
    peak = config.lr * (config.batch / 8) ** 0.5
    # The last step begins up to one step before the end; on a busy machine that is a fifth of so short a budget.
    assert lines[-1]["lr"] < 20 * FINAL_LR * peak
    assert lines[-1]["minutes"] == pytest.approx(0.15, abs=0.1)
    assert max(line["lr"] for line in lines) > 0.5 * peak
    assert lines[-1]["val"] is not None


def test_photos_without_a_single_object_train_the_background(config: TrainConfig, tmp_path: Path) -> None:
    import re
    import shutil

    data = Path(shutil.copytree(config.data, tmp_path / "empty"))
    names = (data / "ImageSets" / "Main" / "train.txt").read_text().split()
    for name in names[:2]:
        file = data / "Annotations" / f"{name}.xml"
        file.write_text(re.sub(r"<object>.*</object>", "", file.read_text(), flags=re.DOTALL))
    run = train(replace(config, data=str(data), batch=1, epochs=1), say=lambda line: None)
    (line,) = lines_of(run)
    assert line["step"] == 4
    assert line["train"]["class"] > 0


@pytest.mark.slow
def test_an_ignored_class_is_in_no_output_and_no_evaluation(config: TrainConfig) -> None:
    said: list[str] = []
    run = train(replace(config, ignore="Platelets", epochs=1), say=said.append)
    boxes = [box for record in read_folder(config.data).splits["train"] for box in record.labels.tolist()]
    assert boxes.count(0) == 1
    assert "neither objects nor background in train: 1 box of Platelets" in said
    detector = Detector.load(run)
    assert detector.class_names == ("RBC", "WBC")
    assert detector.spec.ignored_classes == ("Platelets",)
    (line,) = lines_of(run)
    assert line["objects"] == len(boxes) - boxes.count(0)
    assert load_config(run / "config.yaml").ignore == "Platelets"
    report = evaluate_split(run, read_folder(config.data), "val", say=said.append)  # the folder has the class
    assert [row["name"] for row in report["per_class"]] == ["RBC", "WBC"]
    truth = json.loads((run / "truth.json").read_text())
    assert 2 * report["ignored"] == sum(entry["iscrowd"] for entry in truth["annotations"]) > 0  # one of each class
    assert "ignore regions" in said[-1]


def test_out_that_holds_a_run_is_refused(trained: Path, again: Callable[..., Path]) -> None:
    before = (trained / "metrics.jsonl").read_text()
    with pytest.raises(InputError, match="already holds a run"):
        again(out=str(trained))
    assert (trained / "metrics.jsonl").read_text() == before


def test_runs_that_are_started_together_take_a_number_each(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as threads:
        runs = list(threads.map(_make_run_folder, [replace(config, out=None)] * 8))
    assert sorted(map(str, runs)) == [f"runs/cells-gfl-{number}" for number in range(1, 9)]
    assert all(run.is_dir() for run in runs)


def test_resume_without_a_run_is_refused(again: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to continue"):
        again(out=str(tmp_path / "nothing"), resume=True)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.slow
def test_a_run_that_was_moved_resumes_and_its_config_trains_anew(
    trained: Path, run: Path, again: Callable[..., Path]
) -> None:
    again(out=str(run), resume=True, epochs=5)
    assert [line["epoch"] for line in lines_of(run)] == [0, 1, 2, 3, 4]
    config = load_config(run / "config.yaml")
    assert (config.resume, config.epochs) == (False, 5)
    assert (trained / "last.ckpt").exists()  # of the place it was moved from


def test_resume_of_a_broken_checkpoint_is_one_line(run: Path, again: Callable[..., Path]) -> None:
    (run / "last.ckpt").write_bytes((run / "last.ckpt").read_bytes()[:5000])
    with pytest.raises(InputError, match=r"last\.ckpt: not a readable checkpoint"):
        again(out=str(run), resume=True)


def test_resume_with_another_network_is_one_line(run: Path, again: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="--channels 24: the run has 16"):
        again(out=str(run), resume=True, channels=24, epochs=6)
    assert load_config(run / "config.yaml").channels == 16


@pytest.mark.slow
def test_a_checkpoint_of_another_network_is_one_line(run: Path, again: Callable[..., Path]) -> None:
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("channels: 16", "channels: 24"))
    with pytest.raises(InputError, match=r"last\.ckpt: does not fit"):
        again(out=str(run), resume=True, channels=24, epochs=6)


@pytest.mark.slow
def test_without_a_validation_split_the_last_weights_are_kept(config: TrainConfig, tmp_path: Path) -> None:
    import shutil

    data = Path(shutil.copytree(config.data, tmp_path / "alone"))
    (data / "ImageSets" / "Main" / "val.txt").unlink()
    said: list[str] = []
    run = train(replace(config, data=str(data), epochs=2), say=said.append)
    assert (run / "model.safetensors").exists()
