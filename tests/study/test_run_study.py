import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from focaldet.checks import InputError
from focaldet.cli import main
from focaldet.engine.config import load_config
from focaldet.study import worker
from focaldet.study.folder import append_line, open_study, read_lines
from focaldet.study.run import log_file, run_study, write_summary
from focaldet.study.worker import do_rung, line_file, run_folder, train_rung

TIMES = ("minutes", "seconds", "images_per_second", "peak_memory_mb")


@pytest.fixture(scope="module")
def finished(given: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one rung and one seed, which has been trained and measured: look, do not touch."""
    out = tmp_path_factory.mktemp("studies") / "study"
    open_study(out, given, rungs=["gfl"], seeds=1)
    do_rung(out, "gfl", 0, say=lambda line: None)
    return out


@pytest.fixture
def gfl(finished: Path, out: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, out))


def start(out: Path, *options: str) -> "subprocess.Popen[str]":
    """``focaldet study`` in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "focaldet", "study", "--out", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def timeless(out: Path) -> list[dict]:
    lines = read_lines(out)
    for line in lines:
        line["cost"] = {name: value for name, value in line["cost"].items() if name not in TIMES}
    return lines


def epochs_of(out: Path, rung: str) -> int:
    file = run_folder(out, rung, 0) / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def wait_until(condition, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_study_that_is_killed_in_its_second_rung_ends_with_the_same_table(given, out, tmp_path, capsys):
    given, whole = given | {"epochs": 8}, tmp_path / "whole"

    def measure(rung: str) -> None:
        do_rung(whole, rung, 0, say=lambda line: None)
        append_line(whole, json.loads(line_file(whole, rung, 0).read_text()))

    open_study(whole, given, rungs=["retinanet-focal", "gfl"], seeds=1)
    measure("retinanet-focal")
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns("runs"))  # a line is enough
    measure("gfl")
    assert main(["study", "--out", str(whole), "--table"]) == 0
    expected = capsys.readouterr().out

    killed = start(out, "--parallel", "1")
    wait_until(lambda: epochs_of(out, "gfl") >= 2, killed)
    killed.kill()
    killed.communicate()
    time.sleep(1)
    stopped = epochs_of(out, "gfl")
    time.sleep(1)
    assert epochs_of(out, "gfl") == stopped < 8  # the process that trained has ended too
    assert [line["rung"] for line in read_lines(out)] == ["retinanet-focal"]
    process = start(out, "--parallel", "1")
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    assert not run_folder(out, "retinanet-focal", 0).exists()
    for text in ("1 of 2 runs", "gfl, seed 0: AP"):
        assert text in said
    assert timeless(out) == timeless(whole)
    table, whole_table = (text.partition("val split:")[2].partition("report: ")[0].strip() for text in (said, expected))
    assert table == whole_table
    assert "gfl " in table


@pytest.mark.slow
def test_interrupt_stops_the_study_and_keeps_what_is_done(given, out):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in (given | {"epochs": 500}).items()]
    process = start(out, *options, "--rungs", "gfl", "--seeds", "1")
    wait_until(lambda: epochs_of(out, "gfl") >= 2, process)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 130
    assert errors == "focaldet: stopped\n"
    assert (run_folder(out, "gfl", 0) / "last.ckpt").exists()
    assert not line_file(out, "gfl", 0).exists()  # stopped is not finished


@pytest.mark.slow
def test_two_rungs_run_side_by_side(given, out):
    said: list[str] = []
    run_study(given, out=out, rungs=["fcos", "atss"], seeds=1, parallel=2, say=said.append)
    assert {line["rung"] for line in read_lines(out)} == {"fcos", "atss"}
    starts = [i for i, line in enumerate(said) if line.endswith("starting")]
    assert starts == [starts[0], starts[0] + 1]  # both before the first is done
    summary = json.loads((out / "summary.json").read_text())
    assert [row["rung"] for row in summary["rows"]] == ["fcos", "atss"]


@pytest.mark.slow
def test_a_failure_of_the_first_rung_ends_the_study_with_its_words(given, out):
    with pytest.raises(InputError, match=r"gfl, seed 0: .*nothing\.safetensors.*gfl-0\.log"):
        run_study(given | {"backbone_weights": "nothing.safetensors"}, out=out, rungs=["gfl"], seeds=1)


def test_a_finished_rung_leaves_its_line_and_its_details(gfl):
    line = json.loads(line_file(gfl, "gfl", 0).read_text())
    assert (line["rung"], line["seed"], line["split"]) == ("gfl", 0, "val")
    assert json.loads((gfl / "details" / "gfl-0.json").read_text())["curves_end"]
    assert not (run_folder(gfl, "gfl", 0) / "last.ckpt").exists()


def test_a_line_that_was_finished_before_a_kill_is_taken_up_and_nothing_trained(gfl):
    said: list[str] = []
    run_study({}, out=gfl, say=said.append)
    assert not any(line.endswith("starting") for line in said)
    assert [line["rung"] for line in read_lines(gfl)] == ["gfl"]
    assert not line_file(gfl, "gfl", 0).exists()


def test_lines_alone_are_a_study_that_is_done(gfl):
    append_line(gfl, json.loads(line_file(gfl, "gfl", 0).read_text()))
    shutil.rmtree(gfl / "runs")
    said: list[str] = []
    run_study({}, out=gfl, say=said.append)
    assert "0 of 1 runs" in said[1]
    assert "GFL" not in said[-1]
    assert "gfl" in said[-1]
    assert not (gfl / "runs").exists()


def test_what_is_trained_is_measured_again_and_not_trained(gfl, monkeypatch):
    before = json.loads(line_file(gfl, "gfl", 0).read_text())
    monkeypatch.setattr(worker, "train", None)
    do_rung(gfl, "gfl", 0, say=lambda line: None)
    assert json.loads(line_file(gfl, "gfl", 0).read_text()) == before


def test_a_run_of_other_settings_in_the_folder_is_refused(gfl):
    config = replace(load_config(run_folder(gfl, "gfl", 0) / "config.yaml"), size=96)
    with pytest.raises(InputError, match=r"gfl-0: a run with other settings: size is 64, not 96"):
        train_rung(config, None, print)


@pytest.mark.slow
def test_a_run_that_stopped_in_its_first_epoch_begins_anew(given, out):
    study = open_study(out, given, rungs=["gfl"], seeds=1)
    run = run_folder(out, "gfl", 0)
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("")
    do_rung(out, "gfl", 0, say=lambda line: None)
    assert epochs_of(out, "gfl") == study["settings"]["epochs"]


@pytest.mark.slow
def test_a_training_that_diverges_is_a_result(given, out):
    open_study(out, given | {"lr": 1e30, "clip": 0.0, "warmup": 0}, rungs=["gfl"], seeds=1)
    do_rung(out, "gfl", 0, say=lambda line: None)
    line = json.loads(line_file(out, "gfl", 0).read_text())
    assert line["diverged"].startswith("step ")
    assert line["ranking"] is None
    append_line(out, line)
    assert "1 (1 diverged)" in write_summary(out)


def test_a_second_study_in_the_same_folder_is_refused(given, out):
    fcntl = pytest.importorskip("fcntl")
    out.mkdir()
    handle = os.open(out, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(InputError, match="another focaldet study is running"):
            run_study(given, out=out)
    finally:
        os.close(handle)


def test_each_rung_and_seed_has_a_log_of_its_own(out):
    names = {log_file(out, rung, seed).name for rung in ("gamma-0", "gamma-0.5") for seed in (0, 1)}
    assert names == {"gamma-0-0.log", "gamma-0-1.log", "gamma-0.5-0.log", "gamma-0.5-1.log"}


def test_a_mistake_leaves_no_folder(given, out):
    with pytest.raises(InputError, match="no such folder"):
        run_study(given | {"data": "/nothing"}, out=out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "study: --data DIR is missing"),
        (["--data", "/nothing", "--out", "OUT"], "/nothing: no such folder"),
        (["--out", "OUT", "--table"], "no such file; is"),
        (["--data", "CELLS", "--out", "OUT", "--rungs", "gfl3"], "--rungs: unknown rung 'gfl3'; did you mean 'gfl"),
        (["--data", "CELLS", "--out", "OUT", "--seeds", "0"], "--seeds: expected 1 to 1000, got 0"),
        (["--data", "CELLS", "--out", "OUT", "--folds", "2"], "--folds: expected 3 to 100, got 2"),
        (["--data", "CELLS", "--out", "OUT", "--folds", "7"], "--folds 7: there are only 6 photos"),
        (["--data", "CELLS", "--out", "OUT", "--folds", "3", "--seeds", "3"], "it replaces --seeds; leave one out"),
        (["--data", "CELLS", "--out", "OUT", "--parallel", "0"], "--parallel: expected 1 to 1000, got 0"),
        (["--data", "CELLS", "--out", "OUT", "--size", "4"], "size: expected at least 32, got 4"),
        (["--data", "CELLS", "--out", "OUT", "--method", "gfl"], "unknown option --method"),
        (["--data", "CELLS", "--out", "OUT", "--gammas", "-1"], "gamma: expected at least 0, got -1"),
    ],
)
def test_a_mistake_is_one_line(options, words, cells, out, capfd):
    assert main(["study", *(option.replace("CELLS", str(cells)).replace("OUT", str(out)) for option in options)]) == 2
    errors = capfd.readouterr().err
    assert words in errors
    assert errors.count("\n") == 1
    assert not out.exists()


def test_the_table_is_printed_without_training(gfl, capfd):
    append_line(gfl, json.loads(line_file(gfl, "gfl", 0).read_text()))
    assert main(["study", "--out", str(gfl), "--table"]) == 0
    assert "gfl" in capfd.readouterr().out
    assert json.loads((gfl / "summary.json").read_text())["rows"][0]["rung"] == "gfl"
