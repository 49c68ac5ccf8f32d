"""``focaldet data suspects``: three small trainings, one of them stopped and continued."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from focaldet.checks import InputError
from focaldet.cli import main
from focaldet.data.folder import read_folder
from focaldet.evaluation.suspects import Suspect
from focaldet.report import write_suspects
from focaldet.study.suspects import run_suspects

STOP_ONCE = """
import os, signal
from pathlib import Path

def stop_once(image, target):
    if Path("{fold}").exists() and not Path("{done}").exists():
        Path("{done}").touch()
        os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C
    return image, target
"""


def test_a_stopped_search_goes_on_and_ends_with_a_page(
    run: Path, cells: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "suspects"
    (tmp_path / "own.py").write_text(STOP_ONCE.format(fold=str(out / "fold-2"), done=str(tmp_path / "done")))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("transform: null", f"transform: {tmp_path / 'own.py'}:stop_once"))
    with pytest.raises(InputError, match="stopped in fold 2; the same command continues"):
        run_suspects(run, cells, out=out, folds=3, changes={"epochs": 2}, say=lambda line: None)
    first = (out / "fold-1" / "model.safetensors").stat().st_mtime_ns
    capfd.readouterr()
    command = ["data", "suspects", str(run), str(cells), "--out", str(out), "--folds", "3", "--epochs"]
    assert main([*command, "3"]) == 2
    assert "epochs is 2, not 3; choose another --out" in capfd.readouterr().err
    assert main([*command, "2"]) == 0
    assert "fold 1 of 3" not in (printed := capfd.readouterr().out)
    assert "fold 3 of 3" in printed
    assert (out / "fold-1" / "model.safetensors").stat().st_mtime_ns == first
    assert not list(out.glob("fold-*/last.ckpt"))

    folds = json.loads((out / "folds.json").read_text())["folds"]
    for number in range(3):
        splits = json.loads((out / f"fold-{number + 1}" / "splits.json").read_text())
        assert splits["test"] == folds[number]
        assert not set(folds[number]) & {*splits["train"], *splits["val"]}
    entries = json.loads((out / "suspects.json").read_text())
    with (out / "suspects.csv").open() as file:
        assert [row["kind"] for row in csv.DictReader(file)] == [entry["kind"] for entry in entries]
    assert [entry["certainty"] for entry in entries] == sorted((e["certainty"] for e in entries), reverse=True)
    page = (out / "suspects.html").read_text()
    assert f"The model contradicts {len(entries):,} of them." in page


def test_the_page_shows_suspects_with_their_reasons(cells: Path, tmp_path: Path) -> None:
    record = read_folder(cells).splits["train"][0]
    box = tuple(record.boxes_xyxy[0].tolist())
    wrong = Suspect("wrong class", 0.9, "Labelled <b>RBC</b>.", box, box, 0, "RBC", "WBC")
    missing = Suspect("missing", 0.8, "No label here.", (10.0, 10.0, 60.0, 60.0), None, None, None, "RBC")
    gone = replace(record, path=tmp_path / "gone.jpg")
    page = write_suspects(
        tmp_path / "page.html",
        [(record, wrong), (gone, missing)],
        ("Platelets", "RBC", "WBC"),
        title="Labels",
        sentence="Two.",
        notes=["a note"],
    ).read_text()
    assert page.count("data:image/jpeg") == 1
    assert "The photo file could not be read" in page
    assert "1. wrong class, 0.90" in page
    assert "Labelled &lt;b&gt;RBC&lt;/b&gt;." in page
    assert "a note" in page


def test_what_cannot_be_judged_is_refused(
    trained: Path, cells: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: object) -> str:
        assert main(["data", "suspects", *map(str, arguments)]) == 2
        return capfd.readouterr().err

    assert "expected RUN DIR" in refused(cells)
    assert "has no config.yaml" in refused(tmp_path, cells)
    assert "--folds: expected 3 to 100, got 2" in refused(trained, cells, "--folds", 2, "--out", tmp_path / "two")
    assert "holds a run; choose another folder" in refused(trained, cells, "--out", trained)
    assert main(["data", "check", str(cells), str(cells)]) == 2
    assert "expected one folder" in capfd.readouterr().err
