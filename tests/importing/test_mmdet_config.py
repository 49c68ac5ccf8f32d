"""Configurations as values."""

import pytest

from focaldet.importing.mmdet_config import find, read_config


def test_path_in_the_first_line_is_passed_over():
    assert read_config("/home/user/configs/gfl_r50_1x.py\nsize = (1333, 800)") == {"size": (1333, 800)}


def test_names_operators_and_unpacking_are_read():
    text = "norm = dict(mean=[1.0])\nsteps = [dict(type='Normalize', **norm)]\nratio = -1.0 / 4\nboth = {'a': None}"
    assert read_config(text) == {
        "norm": {"mean": [1.0]},
        "steps": [{"type": "Normalize", "mean": [1.0]}],
        "ratio": -0.25,
        "both": {"a": None},
    }


@pytest.mark.parametrize(
    "line",
    [
        "x = __import__('os').system('touch trace')",
        "x = [open('trace', 'w') for _ in (1,)]",
        "x = dict(a=open('trace', 'w'))",
        "x = 9 ** 9 ** 9",
        "x = 'a' * 10 ** 12",
        "x = 'a' * 1000000000000",
        "x = 1 / 0",
        "x = unknown",
        "import os\nos.system('touch trace')",
    ],
)
def test_what_would_have_to_be_run_is_left_out(tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    assert read_config(f"{line}\ny = 1") == {"y": 1}
    assert not (tmp_path / "trace").exists()


def test_text_that_is_not_python_is_told():
    with pytest.raises(ValueError, match="not Python"):
        read_config("a b c\nd e f\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x0 = [1, 1]\n" + "".join(f"x{i + 1} = [x{i}, x{i}]\n" for i in range(60)), "too large: x15"),
        ("x = " + "-" * 100_000 + "1", "not readable Python"),
    ],
)
def test_text_that_would_fill_the_memory_is_told(text, message):
    with pytest.raises(ValueError, match=message):
        read_config(text)


def test_part_of_a_kind_is_found_in_depth():
    assert find([{"type": "A", "steps": ({"type": "B", "x": 1},)}], "B") == {"type": "B", "x": 1}
    assert find({"a": 1}, "B") is None
