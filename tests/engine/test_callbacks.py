import pytest

from focaldet.engine.callbacks import TimeBudget


def test_time_left_of_a_budget_is_what_is_not_spent_yet() -> None:
    clock = TimeBudget(2.0)
    clock.before_s = 30.0
    assert clock.left_s(0.7) == pytest.approx(90, abs=1)
    clock.before_s = 500.0
    assert clock.left_s(1.0) == 0


def test_time_left_of_a_run_of_epochs_follows_the_share_that_is_done() -> None:
    clock = TimeBudget(None)
    clock.before_s = 60.0
    assert clock.left_s(0.0) is None
    assert clock.left_s(0.25) == pytest.approx(180, abs=4)
    assert clock.left_s(1.0) == 0
