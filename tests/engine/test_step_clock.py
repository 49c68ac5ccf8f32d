import time

from focaldet.engine.step_clock import BETWEEN, StepClock


def test_time_between_two_marks_belongs_to_the_second() -> None:
    clock = StepClock()
    clock.mark("load")
    time.sleep(0.03)
    clock.mark("forward")
    time.sleep(0.01)
    clock.restart()
    clock.mark("load")
    seconds = clock.take()
    assert 0.03 <= seconds["forward"] < 0.06
    assert seconds["load"] < 0.005
    assert clock.take() == {}
    assert clock.total == seconds


def test_the_device_is_waited_for_at_each_mark() -> None:
    calls: list[int] = []
    clock = StepClock(lambda: calls.append(1))
    clock.mark("forward")
    clock.mark("backward")
    assert len(calls) == 2


def test_the_table_tells_each_part_the_share_of_what_is_not_the_network_and_the_rest_of_the_run() -> None:
    clock = StepClock()
    clock.steps = 10
    clock.total = {"load": 1.0, "forward": 3.0, "loss": 1.0, "backward": 4.0, "update": 1.0, BETWEEN: 10.0}
    lines = clock.table().splitlines()
    assert lines[0] == "time of a step (mean of 10):"
    assert lines[1].split() == ["load", "100.0", "ms", "10.0%"]
    assert lines[4].split() == ["backward", "400.0", "ms", "40.0%"]
    assert lines[6] == "  outside the network (load, loss): 20.0%"
    assert lines[7].endswith("10.0 s, 50.0% of the run")


def test_a_table_of_no_step_says_so() -> None:
    assert StepClock().table() == "no training step has run"
