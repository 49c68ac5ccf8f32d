import pytest

from focaldet.checks import InputError
from focaldet.engine.config import TrainConfig
from focaldet.engine.spec import spec_of
from focaldet.study.ladder import LADDER, choose_rungs


def test_each_rung_changes_one_option_of_the_one_before():
    rungs = {rung.name: rung for rung in LADDER}
    for rung in LADDER[1:]:
        before = rungs[rung.before].changes
        different = {key for key in before | rung.changes if before.get(key) != rung.changes.get(key)}
        assert len(different) == 1, rung.name


def test_the_ladder_is_compared_from_step_to_step():
    assert [rung.before for rung in LADDER[1:]] == [rung.name for rung in LADDER[:-1]]


@pytest.mark.parametrize("rung", LADDER, ids=lambda rung: rung.name)
def test_a_rung_is_a_configuration_that_names_its_loss(rung):
    spec = spec_of(TrainConfig(data="cells", **rung.changes), ("cell",))
    assert spec.method_options["class_loss"] == rung.changes["class_loss"]


def test_extra_rungs_change_their_option_and_are_compared_with_the_ladders():
    rungs = {
        rung.name: rung for rung in choose_rungs(gammas=[0, 0.5, 2], betas=[1], bins=[9], settings={"num_bins": 17})
    }
    focal = rungs["retinanet-focal-gamma-0.5"]
    assert focal.changes == {"method": "retinanet", "class_loss": "focal", "gamma": 0.5, "alpha": 0.5}
    assert focal.before == "retinanet-focal"
    assert rungs["retinanet-focal-gamma-0"].changes["alpha"] == 0.75  # as the paper found best without focusing
    assert rungs["atss-qfl-beta-1"].changes["beta"] == 1
    assert rungs["gfl-bins-9"].changes["num_bins"] == 9


def test_an_extra_rung_that_the_ladder_has_is_not_trained_twice():
    settings = {"gamma": 2.0, "alpha": 0.25, "beta": 2.0, "num_bins": 17}
    assert len(choose_rungs(gammas=[2], betas=[2], bins=[17], settings=settings)) == len(LADDER)
    other = choose_rungs(gammas=[2], settings=settings | {"gamma": 1.0})
    assert other[-1].name == "retinanet-focal-gamma-2"


def test_what_lies_between_two_chosen_rungs_is_what_changed():
    (_, gfl) = choose_rungs(["gfl", "atss"], settings={})
    assert gfl.before == "atss"
    assert gfl.changed == f"{LADDER[5].changed}; {LADDER[6].changed}"


def test_an_unknown_rung_is_named_with_the_one_that_was_meant():
    with pytest.raises(InputError, match="unknown rung 'atss-qlf'; did you mean 'atss-qfl'"):
        choose_rungs(["atss-qlf"], settings={})
