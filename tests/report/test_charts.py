import re
import xml.etree.ElementTree as ET

from focaldet.records.run_files import Run
from focaldet.report.charts import SERIES, curves, line_chart


def chart(**series: tuple[list, list]) -> str:
    return str(line_chart("key", "Title", series, "epoch", "loss"))


def test_chart_is_coloured_by_the_page_alone() -> None:
    svg = chart(a=([1, 2], [0.1, 0.2]), b=([1, 2], [0.3, 0.1]))
    assert "var(--s0)" in svg
    assert "var(--s1)" in svg
    assert set(re.findall(r"#[0-9a-fA-F]{6}\b", svg)) == set()


def test_chart_has_its_numbers_as_text_alternative() -> None:
    assert 'aria-label="Title. Last values: a 0.2, b 0.1."' in chart(a=([1, 2], [0.1, 0.2]), b=([1], [0.1]))


def test_hostile_names_make_a_well_formed_chart() -> None:
    svg = str(line_chart("key", "T", {"<script>$\\frac{&": ([1, 2], [1, 2]), "_\x00\n": ([1], [1])}, "x", "y"))
    assert "<script" not in svg
    ET.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="x" ', 1))


def test_two_charts_share_no_id() -> None:
    series = {"a": ([1, 2], [0.1, 0.2]), "b": ([1, 2], [0.3, 0.1])}
    ids = [set(re.findall(r'id="([^"]+)"', str(line_chart(key, "T", series, "x", "y")))) for key in ("one", "two")]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_lines_beyond_the_palette_are_left_out_and_empty_ones_too() -> None:
    series = {f"line{i}": ([1, 2], [i, i]) for i in range(SERIES + 2)}
    assert f"line{SERIES - 1} " in str(line_chart("key", "T", series, "x", "y"))
    assert f"line{SERIES} " not in str(line_chart("key", "T", series, "x", "y"))
    assert line_chart("key", "T", {"a": ([], [])}, "x", "y") is None


def test_epochs_without_validation_and_strange_values_are_skipped(tmp_path) -> None:
    metrics = [
        {"epoch": 0, "train": {"loss": float("nan")}, "val": None, "lr": "fast"},
        {"epoch": "one", "train": {"loss": 1.0}},
        {"epoch": 2, "train": {"loss": 2.0}, "val": {"AP": -1}, "lr": 0.1},
    ]
    assert [caption for caption, _ in curves(Run(tmp_path, metrics=metrics))] == [
        "Training loss and its terms",
        "Learning rate",
    ]


def test_epochs_are_counted_in_whole_numbers() -> None:
    ticks = re.findall(r">([\d.]+)</text>", chart(a=([0.0, 1.0, 2.0], [5.5, 6.5, 7.5])))
    assert {"0", "1", "2"} <= set(ticks)
    assert "0.5" not in ticks
