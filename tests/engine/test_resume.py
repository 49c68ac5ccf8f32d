import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from focaldet.checks import InputError
from focaldet.data.folder import read_folder
from focaldet.engine.config import load_config
from focaldet.engine.evaluate import evaluate_split
from focaldet.engine.resume import FIXED, resumed_config
from focaldet.engine.train import train
from focaldet.files import read_json


def test_a_run_continues_with_its_own_options(run: Path) -> None:
    config, lines = resumed_config(run, {"out": str(run), "resume": True})
    assert lines == []
    assert replace(config, out=None, resume=False) == replace(load_config(run / "config.yaml"), out=None)


def test_options_beside_resume_replace_single_values_and_each_is_named(run: Path) -> None:
    config, lines = resumed_config(run, {"lr": 1e-4, "epochs": 9, "seed": 0})
    assert (config.lr, config.epochs, config.channels) == (1e-4, 9, 16)
    assert lines == ["--epochs: 9 instead of 4", "--lr: 0.0001 instead of 0.003"]


def test_epochs_take_the_place_of_minutes(run: Path) -> None:
    (run / "config.yaml").write_text(replace(load_config(run / "config.yaml"), minutes=3.0).to_yaml())
    config, lines = resumed_config(run, {"epochs": 9})
    assert (config.epochs, config.minutes) == (9, None)
    assert "--minutes: none instead of 3.0" in lines


@pytest.mark.parametrize(
    "given",
    [{"method": "atss"}, {"channels": 24}, {"backbone": "resnet18"}, {"prior_prob": 0.1}, {"ignore": "WBC"}],
)
def test_what_a_run_keeps_is_refused_with_the_reason(run: Path, given: dict[str, object]) -> None:
    ((name, value),) = given.items()
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} {value}: the run has .*{FIXED[name][:20]}"):
        resumed_config(run, given)


def test_photos_that_have_moved_are_asked_for(run: Path) -> None:
    (run / "config.yaml").write_text(replace(load_config(run / "config.yaml"), data="/moved/away").to_yaml())
    with pytest.raises(InputError, match="/moved/away does not exist; give its new place with --data"):
        resumed_config(run, {})


@pytest.mark.slow
def test_a_finished_run_is_made_longer_and_says_so_when_there_is_nothing_to_do(
    run: Path, again: Callable[..., Path]
) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    config, _ = resumed_config(run, {})
    said: list[str] = []
    train(config, say=said.append)
    assert any("is finished" in line and "--epochs" in line for line in said)
    assert (run / "metrics.jsonl").read_text().splitlines() == lines
    with pytest.raises(InputError, match="already trained 4 epochs"):
        train(replace(config, epochs=3), say=said.append)
    train(replace(config, epochs=6, lr=1e-5, val_every=0), say=said.append)
    longer = (run / "metrics.jsonl").read_text().splitlines()
    assert longer[:4] == lines
    assert len(longer) == 6
    last = json.loads(longer[-1])
    assert last["lr"] < 1e-5  # not the optimiser's own of before
    assert last["val"] is not None


@pytest.mark.slow
def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_again(run: Path) -> None:
    (run / "last.ckpt").unlink()
    (run / "model.json").unlink()
    config, _ = resumed_config(run, {})
    said: list[str] = []
    train(config, say=said.append)
    assert any("starting again" in line for line in said)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 4


def relabelled(data: Path, to: Path, names: dict[str, str]) -> Path:
    """A copy whose classes have other names."""
    shutil.copytree(data, to)
    for file in (to / "Annotations").iterdir():
        text = file.read_text()
        for old, new in names.items():
            text = text.replace(f"<name>{old}<", f"<name>{new}<")
        file.write_text(text)
    return to


@pytest.mark.slow
def test_classes_are_matched_by_name_whatever_their_order(run: Path, cells: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(cells, tmp_path / "other"))
    (other / "labels.txt").write_text("WBC\nRBC\nPlatelets\n")
    said: list[str] = []
    before = evaluate_split(run, read_folder(cells), "val", say=said.append)
    after = evaluate_split(run, read_folder(other), "val", say=said.append)
    assert before["metrics"] == after["metrics"]
    assert before["per_class"] == after["per_class"]
    assert any("another order" in line for line in said)


@pytest.mark.slow
def test_classes_that_one_side_does_not_know_are_named_and_left_out(run: Path, cells: Path, tmp_path: Path) -> None:
    other = relabelled(cells, tmp_path / "other", {"WBC": "cat"})
    said: list[str] = []
    report = evaluate_split(run, read_folder(other), "val", say=said.append)
    whole = evaluate_split(run, read_folder(cells), "val", say=said.append)
    assert any("does not know are left out: cat" in line for line in said)
    assert any("no objects of WBC" in line for line in said)
    ap = {row["name"]: row["AP"] for row in report["per_class"]}
    assert ap == {row["name"]: row["AP"] for row in whole["per_class"]} | {"WBC": None}
    measured = [value for value in ap.values() if value is not None]
    assert report["metrics"]["AP"] == pytest.approx(sum(measured) / len(measured))
    with pytest.raises(InputError, match=r"its classes are .*cat"):
        evaluate_split(
            run,
            read_folder(relabelled(cells, tmp_path / "none", {"WBC": "cat", "RBC": "dog", "Platelets": "cow"})),
            "val",
            say=said.append,
        )


@pytest.mark.slow
def test_a_resumed_run_ignores_objects_of_classes_it_does_not_know(run: Path, cells: Path, tmp_path: Path) -> None:
    other = relabelled(cells, tmp_path / "other", {"Platelets": "dirt"})
    (other / "labels.txt").write_text("dirt\nWBC\nRBC\n")
    config, _ = resumed_config(run, {"data": str(other), "epochs": 5})
    said: list[str] = []
    train(config, say=said.append)
    assert any("does not know are ignored: dirt" in line for line in said)
    assert read_json(run / "model.json")["class_names"] == ["Platelets", "RBC", "WBC"]
