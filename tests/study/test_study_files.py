import json
from pathlib import Path

import pytest
from lines import line

from focaldet.checks import InputError
from focaldet.files import read_json, write_json
from focaldet.study.folder import (
    append_line,
    check_lines,
    common_settings,
    config_of,
    open_study,
    read_lines,
    read_study,
)
from focaldet.study.ladder import LADDER
from focaldet.study.measure import settings_of


def test_a_new_study_has_the_whole_ladder_and_three_seeds(given, out):
    study = open_study(out, given)
    assert [row["name"] for row in study["rungs"]] == [rung.name for rung in LADDER]
    assert study["seeds"] == [0, 1, 2]
    assert (study["class_names"], study["split"]) == (["Platelets", "RBC", "WBC"], "val")
    assert study["photos"] == {"train": 4, "val": 2}
    assert study["class_names"][study["rare_label"]] in ("Platelets", "WBC")
    assert read_json(out / "study.json") == study
    assert len(read_json(out / "truth.json")["images"]) == 2
    assert read_json(out / "neuron.json")["curves"]


def test_ten_minutes_a_rung_unless_epochs_are_given(given, out, tmp_path):
    assert open_study(out, given)["settings"]["minutes"] is None
    given = {name: value for name, value in given.items() if name != "epochs"}
    assert open_study(tmp_path / "other", given)["settings"]["minutes"] == 10


def test_a_rung_is_the_settings_with_its_own_changes(given, out):
    study = open_study(out, given)
    row = next(row for row in study["rungs"] if row["name"] == "retinanet-bce-no-prior")
    config = config_of(study, row, 7, out / "run")
    assert (config.method, config.class_loss, config.prior_prob, config.seed) == ("retinanet", "bce", 0.5, 7)
    assert (config.size, config.epochs) == (64, 2)


def test_a_study_goes_on_without_being_told_anything(given, out):
    study = open_study(out, given, rungs=["gfl", "atss"], seeds=2)
    assert open_study(out, {}) == study


def test_seeds_and_rungs_are_added(given, out):
    open_study(out, given, rungs=["atss", "gfl"], seeds=1, bins=[9])
    study = open_study(out, {}, rungs=["atss-qfl"], seeds=2, betas=[1.0])
    names = [row["name"] for row in study["rungs"]]
    assert names == ["atss", "atss-qfl", "gfl", "atss-qfl-beta-1", "gfl-bins-9"]
    assert study["seeds"] == [0, 1]
    gfl = study["rungs"][2]
    assert gfl["compared_with"] == "atss-qfl"  # which was not there before


def test_other_settings_than_the_studys_are_refused_with_what_differs(given, out):
    open_study(out, given)
    before = (out / "study.json").read_bytes()
    with pytest.raises(InputError, match=r"study\.json: size is 64, not 96; choose another --out"):
        open_study(out, given | {"size": 96})
    assert (out / "study.json").read_bytes() == before


def test_the_same_folder_by_another_path_is_the_same(given, out, monkeypatch):
    open_study(out, given)
    monkeypatch.chdir(Path(given["data"]).parent)
    assert open_study(out, {"data": "cells"})["data"] == given["data"]


def test_photos_that_have_changed_are_refused(given, out):
    study = open_study(out, given)
    write_json(out / "study.json", study | {"photos": {"train": 5, "val": 2}})
    with pytest.raises(InputError, match=r"have changed since the study started \(photos: .*5.*4"):
        open_study(out, {})


def test_an_option_that_does_not_fit_is_refused_before_anything_is_written(given, out):
    with pytest.raises(InputError, match="size: expected at least 32"):
        open_study(out, given | {"size": 8})
    with pytest.raises(InputError, match="num_bins: expected at least 2"):
        open_study(out, given, bins=[1])
    assert not out.exists()


def test_lines_come_back_as_they_were_written(out, given):
    open_study(out, given)
    for seed in (0, 1):
        append_line(out, line("gfl", seed, 0.5))
    assert [finished["seed"] for finished in read_lines(out)] == [0, 1]
    assert (out / "study.jsonl").read_text().count("\n") == 2


def test_a_line_is_appended_to_a_file_that_lost_its_last_newline(out):
    append_line(out, line("gfl", 0, 0.5))
    file = out / "study.jsonl"
    file.write_text(file.read_text().rstrip("\n"))
    append_line(out, line("gfl", 1, 0.5))
    assert len(read_lines(out)) == 2


@pytest.mark.parametrize("text", ['{"format": 1, "ru', "[]", "7", '{"format": 1}'])
def test_a_broken_line_is_named_with_its_number(out, text):
    append_line(out, line("gfl", 0, 0.5))
    with (out / "study.jsonl").open("a") as file:
        file.write(text)
    with pytest.raises(InputError, match=r"study\.jsonl: line 2 is damaged"):
        read_lines(out)


def test_a_line_that_was_trained_otherwise_is_refused(out, given):
    study = open_study(out, given)
    row = next(row for row in study["rungs"] if row["name"] == "gfl")
    settings = settings_of(config_of(study, row, 0, out))
    finished = line("gfl", 0, 0.5) | {"settings": settings}
    check_lines(out, study, [finished])
    with pytest.raises(InputError, match=r"gfl, seed 0: channels is 32, not 16"):
        check_lines(out, study, [finished | {"settings": settings | {"channels": 32}}])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(seeds=["0"]), r"seeds\[0\]: expected a whole number, got a str"),
        (lambda d: d.update(seeds=[-1]), "seeds: expected numbers of at least 0"),
        (lambda d: d.update(seeds=[]), "at least one of each"),
        (lambda d: d.pop("rare_label"), "'rare_label' is missing"),
        (lambda d: d.update(rare_label=3), "rare_label: expected the index of a class"),
        (lambda d: d.update(split="dev"), "'dev' has no photos"),
        (lambda d: d["settings"].update(sise=3), "settings: 'sise' is not an option"),
        (lambda d: d["settings"].pop("size"), "settings: 'size' is missing"),
        (lambda d: d["rungs"][0]["changes"].update(sise=3), "'sise' is not an option of train"),
        (lambda d: d["rungs"][0].update(name="../../elsewhere"), "is not a valid rung name"),
    ],
)
def test_a_study_is_checked_before_it_is_used(out, given, change, words):
    open_study(out, given, rungs=["gfl"], seeds=1)
    study = read_json(out / "study.json")
    change(study)
    write_json(out / "study.json", study)
    with pytest.raises(InputError, match=rf"study\.json: .*{words}"):
        read_study(out)


@pytest.mark.parametrize("value", [{"format": 0}, [], {}])
def test_a_file_that_is_no_study_is_refused(out, value):
    out.mkdir()
    (out / "study.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"study\.json: format"):
        read_study(out)


@pytest.mark.parametrize("option", ["data", "weights", "backbone_weights"])
def test_a_file_or_folder_is_kept_whole_so_that_the_study_goes_on_from_anywhere(option):
    settings = common_settings({"data": "cells"} | {option: "somewhere/it"})
    assert settings[option] == str(Path("somewhere/it").resolve())


def test_ignored_classes_are_no_classes_of_a_study(cells: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    study = open_study(out, {"data": str(cells), "epochs": 1, "ignore": "Platelets"}, seeds=1)
    assert study["class_names"] == ["RBC", "WBC"]
    truth = read_json(out / "truth.json")
    assert [category["name"] for category in truth["categories"]] == ["RBC", "WBC"]
    assert open_study(out, {}) == study


def test_a_study_says_how_many_detections_count(cells: Path, tmp_path: Path) -> None:
    def count(**options: int) -> int:
        given = {"data": str(cells), "epochs": 1} | options
        return open_study(tmp_path / str(options), given, seeds=1)["max_detections"]

    assert count() == 100
    assert count(max_detections=300) == 300
    assert count(max_detections=20) == 100


def test_a_study_in_windows_is_refused() -> None:
    with pytest.raises(InputError, match="--tile: a study measures its detectors on whole photos"):
        common_settings({"data": "cells", "tile": 640})
