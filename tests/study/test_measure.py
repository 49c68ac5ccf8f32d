import json
from dataclasses import replace
from pathlib import Path

import pytest

from focaldet.data.folder import read_folder
from focaldet.engine.config import TrainConfig, load_config
from focaldet.files import read_json
from focaldet.records.study import Line
from focaldet.records.study_details import Details
from focaldet.study.measure import measure


@pytest.fixture(scope="module")
def measured(trained: Path) -> tuple[Line, Details]:
    """The smallest GFL, measured on the split that training measures."""
    config = load_config(trained / "config.yaml")
    return measure("gfl", replace(config, out=str(trained)), read_folder(config.data), "val", None)


def test_average_precision_is_that_of_the_runs_own_evaluation(measured, trained):
    line, _ = measured
    own = read_json(trained / "evaluation.json")
    assert line["metrics"] == pytest.approx(own["metrics"], abs=1e-6)
    assert [row["name"] for row in line["per_class"]] == [row["name"] for row in own["per_class"]]


def test_a_line_has_every_field_and_is_json(measured):
    line, details = measured
    assert set(line) == set(Line.__annotations__)
    assert set(details) == set(Details.__annotations__)
    assert json.loads(json.dumps(line, allow_nan=False)) == line
    assert json.loads(json.dumps(details, allow_nan=False)) == details


def test_the_cost_is_that_of_the_runs_lines(measured, trained):
    line, details = measured
    lines = [json.loads(text) for text in (trained / "metrics.jsonl").read_text().splitlines()]
    cost = line["cost"]
    assert (cost["epochs"], cost["steps"]) == (4, 8)
    assert cost["peak_memory_mb"] == max(entry["peak_memory_mb"] for entry in lines) > 50
    assert set(cost["seconds"]) >= {"load", "forward", "assign", "loss", "backward", "update"}
    assert set(cost["terms_first"]) == set(cost["terms_last"]) == {"class", "box", "distribution"}
    assert [moment["epoch"] for moment in details["history"]] == [0, 1, 2, 3]


def test_start_and_end_are_looked_at_on_the_same_locations(measured):
    line, _ = measured
    start, end = line["imbalance_start"], line["imbalance_end"]
    assert (start["background_sites"], start["object_sites"]) == (end["background_sites"], end["object_sites"])
    assert start["own"] != end["own"]


def test_shown_photos_are_of_the_measured_split(measured, cells: Path):
    _, details = measured
    ids = [record.image_id for record in read_folder(cells).splits["val"]]
    assert [photo["image_id"] for photo in details["photos"]] == ids


@pytest.mark.usefixtures("trained")
def test_a_run_that_diverged_has_what_came_before_and_nulls(config: TrainConfig):
    reason = "step 0: the class loss is nan"
    line, details = measure("gfl", config, read_folder(config.data), "val", reason)
    assert line["diverged"] == reason
    assert line["imbalance_start"]["object_sites"] > 0
    assert line["ranking"] is line["imbalance_end"] is details["curves_end"] is None
    assert set(line["metrics"].values()) == {None}
    assert line["cost"]["steps"] == 0
    json.dumps([line, details], allow_nan=False)
