"""The chapters after the ladder: their rungs, their teacher and their claims."""

from pathlib import Path

import pytest

from focaldet.checks import InputError
from focaldet.engine.config import TrainConfig
from focaldet.records.study_claims import CHAPTER_CLAIMS
from focaldet.study.chapters import AFTER, CHAPTERS
from focaldet.study.digits import OPTIONS, digits_options
from focaldet.study.folder import config_of
from focaldet.study.ladder import LADDER, RUNGS, choose_rungs
from focaldet.study.measure import settings_of
from focaldet.study.run import _next
from focaldet.study.summary import COMPARED


@pytest.mark.parametrize("rung", AFTER, ids=lambda rung: rung.name)
def test_a_rung_changes_one_thing_compared_with_the_one_before(rung):
    before = RUNGS[rung.before].changes
    different = {name for name in before | rung.changes if before.get(name) != rung.changes.get(name)}
    assert len(different) == (2 if rung.name == "gfl-large" else 1)
    TrainConfig(data="cells", **rung.changes)


def test_a_chapter_has_its_rungs_and_those_that_they_are_compared_with():
    assert [rung.name for rung in choose_rungs(["boxes"], settings={})][:2] == ["gfl", "gfl-iou"]
    assert [rung.name for rung in choose_rungs(["distil"], settings={})] == ["gfl", "gfl-large", "gfl-taught"]
    assert choose_rungs(["story"], settings={}) == choose_rungs(settings={})
    everything = choose_rungs(["story", *CHAPTERS], settings={})
    assert [rung.name for rung in everything] == list(RUNGS)
    assert len(everything) == len(LADDER) + len(AFTER)


def test_a_taught_rung_brings_its_teacher():
    taught = {rung.name: rung for rung in choose_rungs(["gfl-taught"], settings={})}
    assert list(taught) == ["gfl-large", "gfl-taught"]
    assert taught["gfl-taught"].before is None


def test_a_misspelled_chapter_is_named_with_the_one_that_was_meant():
    with pytest.raises(InputError, match="did you mean 'boxes'"):
        choose_rungs(["boxs"], settings={})


def test_a_taught_run_waits_for_its_teacher_of_the_same_seed():
    study = {"rungs": [rung.row() for rung in choose_rungs(["distil"], settings={})]}
    todo = [(name, seed) for seed in (0, 1) for name in ("gfl-taught", "gfl-large")]
    assert _next(todo, [], study) == ("gfl-large", 0)
    assert _next(todo[:1] + todo[2:], [("gfl-large", 0)], study) == ("gfl-large", 1)
    assert _next([("gfl-taught", 0)], [("gfl-large", 0)], study) is None
    assert _next([("gfl-taught", 0)], [("gfl-large", 1)], study) == ("gfl-taught", 0)


def test_the_teacher_is_the_run_beside_and_moving_the_study_changes_no_setting():
    row = RUNGS["gfl-taught"].row()
    study = {"settings": {"data": "cells"}}
    config = config_of(study, row, 2, Path("studies/a/runs/gfl-taught-2"))
    assert Path(config.teacher) == Path("studies/a/runs/gfl-large-2")
    moved = config_of(study, row, 2, Path("elsewhere/runs/gfl-taught-2"))
    assert settings_of(moved) == settings_of(config)


def test_every_claim_compares_a_rung_with_the_one_before_it_in_a_number_that_is_compared():
    assert tuple(CHAPTER_CLAIMS) == CHAPTERS
    for name, claims in CHAPTER_CLAIMS.items():
        for claim in claims:
            assert RUNGS[claim.rung].group == name
            assert RUNGS[claim.rung].before == claim.before
            assert claim.number in COMPARED
        assert {claim.rung for claim in claims} >= {rung.name for rung in AFTER if rung.group == name} - {"gfl-focal"}


def test_the_digits_are_made_beside_the_study_and_given_options_win(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("focaldet.study.digits.make_digits", lambda root: made.append(root) or root)
    options, out = digits_options({"size": 64, "epochs": 3}, tmp_path / "s")
    assert made == [tmp_path / "s-photos"]
    assert options == OPTIONS | {"size": 64, "epochs": 3, "data": str(made[0])}
    assert out == tmp_path / "s"
    with pytest.raises(InputError, match="leave out --data"):
        digits_options({"data": "photos"}, None)
