import json
import math

import pytest

from evaluation.many_photos import many_photos, with_false
from focaldet.checks import InputError
from focaldet.evaluation.certainty import calibrate, cross_fitted_bands, measured_scores
from focaldet.records.calibration import (
    FILE,
    Calibration,
    parse_calibration,
    read_calibration,
    remove_calibration,
    write_calibration,
)
from focaldet.records.run_files import Run
from report.run_folder import jittered


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    truth = many_photos(150, ["cell", "dust"])
    return Run(folder, truth=truth, predictions=with_false(truth, jittered(truth, seed=0, spread=0.05), 600))


@pytest.fixture(scope="module")
def calibration(run) -> Calibration:
    return calibrate(run, data="150 drawn photos", split="val")


def test_calibration_has_everything_and_reports_what_it_gained(run, calibration):
    assert calibration.photos == 150
    assert calibration.objects == len(run.truth["annotations"])
    assert calibration.bands.scale == "deviation"
    before, after = calibration.report["scores"]["error"]
    assert after < before / 2
    before, after = calibration.report["scores"]["laece0"]
    assert after < before
    for rows in calibration.report["sides"].values():
        for row in rows:
            share = row["box_inside"] / row["box_count"]
            slack = 3 * math.sqrt(2 * row["promised"] * (1 - row["promised"]) / row["box_count"])
            assert abs(share - row["promised"]) < slack


def test_widths_of_a_study_are_those_of_the_calibration(run, calibration):
    assert cross_fitted_bands(run) == calibration.report["sides"]
    assert list(cross_fitted_bands(Run(run.path, truth=run.truth, predictions=[])).values()) == [[], []]


def test_counts_at_the_threshold_are_those_of_the_photos(run, calibration):
    for row, each in zip(calibration.report["classes"], calibration.thresholds, strict=True):
        assert row["found"] + row["missed"] == each.objects
        assert row["found"] >= row["found_75"]
    kept = [p for p in run.predictions if p["score"] >= calibration.thresholds[p["category_id"]].best_f1]
    assert sum(row["found"] + row["false"] for row in calibration.report["classes"]) == len(kept)


def test_boxes_without_deviations_have_bands_by_their_size(run):
    bare = [{k: v for k, v in p.items() if k != "side_std"} for p in run.predictions]
    calibration = calibrate(Run(run.path, truth=run.truth, predictions=bare), data="", split="val")
    assert calibration.bands.scale == "size"
    assert list(calibration.report["sides"]) == ["size"]


def test_too_few_found_objects_give_no_calibration(run):
    assert calibrate(Run(run.path, truth=run.truth, predictions=[]), data="", split="val") is None
    assert calibrate(Run(run.path, truth={}, predictions=[]), data="", split="val") is None


def test_other_photos_are_measured_with_the_same_numbers(run, calibration):
    truth = many_photos(60, ["cell", "dust"])
    other = Run(run.path, truth=truth, predictions=with_false(truth, jittered(truth, seed=9, spread=0.05), 200))
    measured = measured_scores(calibration, other)
    assert measured["error"][1] < measured["error"][0]
    for row in measured["sides"]:
        assert abs(row["box_inside"] / row["box_count"] - row["promised"]) < 0.1
    renamed = truth | {"categories": [{"id": 0, "name": "x"}, {"id": 1, "name": "y"}]}
    assert measured_scores(calibration, Run(run.path, truth=renamed, predictions=[])) is None


def test_file_gives_back_what_was_written(tmp_path, calibration):
    assert read_calibration(tmp_path) is None
    write_calibration(tmp_path, calibration)
    assert read_calibration(tmp_path) == calibration
    assert parse_calibration(calibration.for_export()).report is None
    remove_calibration(tmp_path)
    remove_calibration(tmp_path)
    assert read_calibration(tmp_path) is None


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (["format"], 2, "format 2"),
        (["class_names"], [], "class_names"),
        (["class_names"], ["cell"], "one per class"),
        (["class_maps"], [0, 9], "class_maps"),
        (["least_score"], 1.5, "least_score"),
        (["maps", 0, "scores"], [0.0, 0.5, 0.5, 1.0], "strictly increasing"),
        (["maps", 0, "chances"], [0.0, 1.5], "strictly increasing"),
        (["maps", 0, "method"], "guess", "method"),
        (["thresholds", 0, "best_f1"], -1, "best_f1"),
        (["thresholds", 0, "precision", "thresholds"], [0.5], "50 entries"),
        (["thresholds", 0, "recall", "thresholds", 3], 7, "recall"),
        (["bands", "whole_box", "cells"], [0], "cells"),
        (["bands", "whole_box", "cells", 0], 10**6, "cells"),
        (["bands", "each_side", "groups", 0, "factors"], [], "factors"),
        (["bands", "each_side", "groups", 0, "factors", 0], -1, "factors"),
        (["bands", "each_side", "groups", 0, "factors", 0], float("inf"), "factors"),
        (["bands", "scale"], "feet", "scale"),
        (["bands"], [], "bands"),
        (["report"], 3, "report"),
    ],
)
def test_what_a_file_says_is_checked(tmp_path, calibration, place, value, words):
    content = calibration.to_json() | {}
    content = json.loads(json.dumps(content))
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(InputError, match=words):
        parse_calibration(content)
    (tmp_path / FILE).write_text(json.dumps(content))
    with pytest.raises(InputError, match="focaldet calibrate"):
        read_calibration(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", "null", '{"format": 1}'])
def test_file_that_is_no_calibration_is_refused(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(InputError, match=FILE):
        read_calibration(tmp_path)
