import json
import re
from dataclasses import replace
from itertools import pairwise

import pytest

from evaluation.many_photos import many_photos, with_false
from focaldet.evaluation.certainty import calibrate
from focaldet.evaluation.matching import match_run
from focaldet.records.calibration import FILE, read_calibration, write_calibration
from focaldet.records.run_files import read_run
from focaldet.report import write_report
from focaldet.report.certainty import certainty_context
from focaldet.report.certainty_pictures import confusion_table
from report.run_folder import jittered


@pytest.fixture
def run_path(tmp_path):
    """A run with its evaluation on val and a calibration on the same photos."""
    truth = many_photos(150, ["cell", "dust"])
    results = with_false(truth, jittered(truth, seed=0, spread=0.05), 600)
    evaluation = {"split": "val", "images": 150, "objects": len(truth["annotations"]), "metrics": {"AP": 0.5}}
    for name, content in (("truth", truth), ("predictions", results), ("evaluation", evaluation)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    write_calibration(tmp_path, calibrate(read_run(tmp_path), data="150 drawn photos", split="val"))
    return tmp_path


def context(path):
    run = read_run(path)
    return certainty_context(run, match_run(run))


def test_chapter_begins_in_plain_words_with_numbers(run_path):
    html = write_report(run_path).read_text()
    lede = re.search(r'<h2>Can you rely on it\?</h2>\n<p class="lede">(.*?)</p>', html).group(1)
    assert re.match(r"Of the detections with a score around 0\.\d\d, \d+% are right; in \d\d of 100 detected", lede)
    assert "found" in lede
    assert "false alarms" in lede
    assert "by cross-fitting" in html
    assert '<a href="#rely">' in html
    assert html.count('<svg class="chart"') >= 4


def test_numbers_are_those_of_the_calibration(run_path):
    calibration = json.loads((run_path / FILE).read_text())
    shown = context(run_path)
    assert [row["name"] for row in shown["classes"]] == ["cell", "dust"]
    for row, counts in zip(shown["classes"], calibration["report"]["classes"], strict=True):
        assert (row["found"], row["missed"], row["false"]) == (counts["found"], counts["missed"], counts["false"])
    (scale, rows), (other, _) = shown["coverage"]
    assert (scale, other) == ("standard deviations", "the size of the box")
    counted = calibration["report"]["sides"]["deviation"][1]
    assert rows[1]["box"] == counted["box_inside"] / counted["box_count"]
    assert shown["errors"][0][1:] == tuple(calibration["report"]["scores"]["error"])


def test_evaluation_on_other_photos_measures_what_the_calibration_has_not_seen(run_path):
    truth = many_photos(60, ["cell", "dust"])
    results = with_false(truth, jittered(truth, seed=5, spread=0.15), 200)  # errors are larger than deviations say
    evaluation = {"split": "test", "images": 60, "objects": len(truth["annotations"]), "metrics": {"AP": 0.5}}
    before = context(run_path)
    for name, content in (("truth", truth), ("predictions", results), ("evaluation", evaluation)):
        (run_path / f"{name}.json").write_text(json.dumps(content))
    shown = context(run_path)
    assert "(test)" in shown["where"]
    assert shown["coverage"][0][1][1]["boxes"] < before["coverage"][0][1][1]["boxes"] / 2
    assert len(shown["errors"]) == 1
    assert shown["classes"] == before["classes"]


def test_matrix_has_the_counts_and_says_them_on_hover(run_path):
    counted = json.loads((run_path / FILE).read_text())["report"]
    html = write_report(run_path).read_text()
    table = html.split('<table class="matrix">')[1].split("</table>")[0]
    cells = [[int(n.replace(",", "")) for n in re.findall(r">([\d,]+)</span>", row)] for row in table.split("<tr>")[2:]]
    assert [len(row) for row in cells] == [3, 3, 2]
    classes = counted["classes"]
    assert [cells[label][label] for label in range(2)] == [row["found"] for row in classes]
    assert [sum(row) - row[label] for label, row in enumerate(cells[:2])] == [row["missed"] for row in classes]
    assert f"of {sum(cells[0]):,} objects" in table
    assert "are false alarms" in table
    found, false = (sum(row[key] for row in classes) for key in ("found", "false"))
    assert f"{false:,} of {found + false:,} boxes are false alarms" in html


def test_many_classes_share_a_row_of_the_matrix(run_path):
    calibration = read_calibration(run_path)
    names = tuple(f"class {number}" for number in range(20))
    each = replace(calibration.thresholds[0], objects=1)
    many = replace(calibration, class_names=names, thresholds=(each,) * 20)
    report = {"confusion": [[label, label, 1] for label in range(20)] + [[-1, 19, 5]]}
    table = confusion_table(many, report)
    assert table.columns[-2:] == ["9 other classes", "missed"]
    assert [row[0].count for _, row in table.rows[:1]] == [1]
    assert table.rows[-2][1][-2].count == 9
    assert table.rows[-1][1][-1].count == 5


def test_curves_and_diagram_have_their_numbers_on_hover(run_path):
    html = write_report(run_path).read_text()
    columns = re.findall(r'<g class="box column".*?aria-label="(.*?)">.*? x="(.*?)".*? width="(.*?)"', html)
    assert any(
        re.match(r"Precision at a score of 0\.5; cell \d\.\d\d; dust \d\.\d\d$", words) for words, _, _ in columns
    )
    assert any(
        re.match(r"score 0\.\d\d \(calibrated\); \d+% of [\d,]+ detections are right$", words)
        for words, _, _ in columns
    )
    of_f1 = [(float(x), float(width)) for words, x, width in columns if words.startswith("F1 ")]
    assert len(of_f1) > 30
    assert all(a + width == pytest.approx(b, abs=0.2) for (a, width), (b, _) in pairwise(of_f1))


def test_widest_and_narrowest_boxes_are_shown_with_their_bands(run_path):
    shown = context(run_path)
    run = read_run(run_path)
    narrow, wide = shown["examples"].values()
    assert len(narrow) == len(wide) == 4
    for photo in (*narrow, *wide):
        truth, box = photo.panels[0].boxes
        assert (truth.state, box.state) == ("truth", "found")
        assert box.bands.count("M") == 4
    relative = [
        [
            float(re.search(r"± ([\d.]+)", photo.panels[0].words).group(1)) / photo.panels[0].boxes[1].area ** 0.5
            for photo in some
        ]
        for some in (narrow, wide)
    ]
    assert max(relative[0]) < min(relative[1])
    assert len(match_run(run)) > 8


def test_run_without_calibration_has_no_chapter(run_path):
    (run_path / FILE).unlink()
    assert context(run_path) is None
    assert "rely" not in write_report(run_path).read_text()


@pytest.mark.parametrize(
    "break_it",
    [
        lambda content: content | {"format": 7},
        lambda content: content | {"report": {}},
        lambda content: content | {"report": content["report"] | {"classes": []}},
        lambda content: content | {"report": content["report"] | {"sides": {"deviation": [{"promised": "0.9"}]}}},
        lambda content: (
            content | {"report": content["report"] | {"scores": content["report"]["scores"] | {"laece0": [0.1]}}}
        ),
    ],
)
def test_broken_calibration_is_named_and_the_page_is_written(run_path, break_it):
    content = json.loads((run_path / FILE).read_text())
    (run_path / FILE).write_text(json.dumps(break_it(content)))
    html = write_report(run_path).read_text()
    assert "nothing is shown about the reliability" in html
    assert "rely" not in html


def test_calibration_of_an_exported_model_has_no_chapter(run_path):
    content = json.loads((run_path / FILE).read_text()) | {"report": None}
    (run_path / FILE).write_text(json.dumps(content))
    assert context(run_path) is None


def test_hostile_names_stay_text(run_path):
    content = json.loads((run_path / FILE).read_text())
    content |= {"class_names": ["<script>alert(1)</script>", "dust"], "data": "<b>x</b>"}
    (run_path / FILE).write_text(json.dumps(content))
    html = write_report(run_path).read_text()
    assert "<script>alert" not in html
    assert "<b>x</b>" not in html
