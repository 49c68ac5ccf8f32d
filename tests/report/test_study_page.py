"""The page of a study: its sentences about the numbers, and incomplete studies."""

import json
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from markupsafe import Markup
from run_folder import drawn_truth
from study_folder import write_study

from focaldet.checks import InputError
from focaldet.evaluation.matching import MATCH_IOU
from focaldet.files import read_json
from focaldet.records.study import Line, Study, Summary
from focaldet.records.study_details import Details, Neuron
from focaldet.records.study_files import read_study
from focaldet.report import charts, write_report
from focaldet.report.page import render
from focaldet.report.sides import distribution_curves
from focaldet.report.story import Claim, advice, claims, train_command
from focaldet.report.study_chapters import AFTER_LADDER
from focaldet.report.study_charts import sweep_chart
from focaldet.report.study_page import CHAPTERS, study_context
from focaldet.study.ladder import LADDER

LABEL = '<img src=x onerror="1">'  # a class name that must stay text


def drawn_study(folder: Path, **options: Any) -> Path:
    return write_study(folder / "study", drawn_truth(folder / "photos", ["cell", LABEL]), **options)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole study of three seeds: look, do not touch."""
    return drawn_study(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def context(study: Path) -> dict[str, Any]:
    return study_context(read_study(study))


@pytest.fixture(scope="module")
def page(context: dict[str, Any]) -> str:
    return render("study.html", context)


@pytest.fixture
def blank_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are plotted, but not made an SVG, which is most of the time that a page takes."""
    monkeypatch.setattr(charts, "_inline_svg", lambda figure, key, description: Markup("<svg></svg>"))


@pytest.fixture
def small(tmp_path: Path, blank_charts: None) -> Path:
    """Two rungs, to break; without neuron.json."""
    folder = drawn_study(tmp_path, rungs=["atss", "gfl"], seeds=(0, 1))
    (folder / "neuron.json").unlink()
    return folder


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | values))


def conforms(value: Any, kind: Any) -> bool:
    """Whether JSON is what a type of ``focaldet.records.study`` says, to its leaves."""
    if is_typeddict(kind):
        hints = get_type_hints(kind)
        return (
            isinstance(value, dict)
            and kind.__required_keys__ <= value.keys() <= hints.keys()
            and all(conforms(value[k], hints[k]) for k in value)
        )
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list) and all(conforms(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(conforms(item, arguments[1]) for item in value.values())
    if arguments:
        return any(conforms(value, one) for one in arguments)
    if kind is Any:
        return True
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def test_the_made_up_study_is_as_the_record_says(study: Path) -> None:
    for name, kind in (("study.json", Study), ("summary.json", Summary), ("neuron.json", Neuron)):
        assert conforms(json.loads((study / name).read_text()), kind), name
    assert all(conforms(json.loads(line), Line) for line in (study / "study.jsonl").read_text().splitlines())
    assert all(conforms(json.loads(file.read_text()), Details) for file in (study / "details").iterdir())
    assert not conforms({"format": 1}, Summary)


def test_page_of_a_study_has_every_chapter_and_loads_nothing(page: str) -> None:
    without_rungs = [name for name in CHAPTERS if name not in AFTER_LADDER]
    assert re.findall(r'<section id="(\w+)">', page) == without_rungs
    assert "Not everything could be shown" not in page
    assert set(re.findall(r'\bhref="([^#"]{0,22})', page)) <= {"", "data:,", "data:image/jpeg;base64"}
    assert page.count("<script") == 1
    assert LABEL not in page


def test_every_picture_has_a_text_alternative(page: str) -> None:
    pictures = re.findall(r"<svg[^>]*>", page)
    assert len(pictures) > 60
    assert all('aria-hidden="true"' in one or re.search(r'aria-label="[^"]{12,}', one) for one in pictures)


def test_every_id_is_there_once_and_every_link_has_its_target(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(set(ids)) == len(ids)
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)


def test_ladder_shows_mean_spread_and_what_it_is_worth(study: Path, page: str) -> None:
    rung = next(rung for rung in read_study(study).rungs if rung.name == "retinanet-focal")
    ap = rung["AP"]
    assert ap is not None
    assert ap.mean == pytest.approx(sum(line["metrics"]["AP"] for line in rung.lines) / 3)
    assert f'<td class="n">{ap.mean:.3f}<span class="std">± {ap.std:.3f}</span></td>' in page
    row = page[page.index("RetinaNet, focal loss<br>") :].split("</tr>")[0]
    assert row.count('class="dot"') == 3
    assert ">higher</span>" in row
    assert ">within the spread</span>" in page


def about(told: list[Claim], words: str) -> Claim | None:
    """The claim that begins with some words."""
    return next((claim for claim in told if claim.lead.startswith(words)), None)


def test_width_of_the_bands_stands_beside_each_rung(page: str) -> None:
    table = page.split("Width of the bands that promise 90 %")[1].split("</table>")[0]
    rows = {
        title: re.findall(r'<td class="n">(.*?)</td>', cells)
        for title, cells in re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', table)
    }
    assert list(rows) == [rung.title for rung in LADDER]
    assert rows["GFL"] == ["31.4", "90.5 %", "37.6", "89.5 %"]
    assert rows[LADDER[0].title] == ["–", "–", "37.6", "89.5 %"]


def test_story_says_what_was_measured_of_each_step(study: Path) -> None:
    told = claims(read_study(study))
    assert len(told) == 7
    focal, quality, sides = (about(told, words) for words in ("Focal loss", "Quality focal", "Distribution focal"))
    assert focal
    assert quality
    assert sides
    assert "99.9 % of the first gradient comes from background" in focal.words
    assert "50 % with cross entropy and 20 % with focal loss" in focal.words
    assert focal.effects[1].endswith("significant gain.")
    assert re.search(
        r"is 0\.\d\d with class × centerness and 0\.\d\d with the joint score \(a statistically significant gain\)",
        quality.words,
    )
    assert "within the spread of the seeds" in quality.effects[0]
    assert re.search(r"most certain tenth .* 0\.9 px, the least certain tenth by 4\.5 px", sides.words)


def test_advice_names_what_cannot_be_told_from_the_best(study: Path) -> None:
    best = advice(read_study(study))
    assert best is not None
    seeds = {rung.name: rung["AP"].values for rung in read_study(study).group("ladder") if rung["AP"]}
    assert best.rung.name == max(seeds, key=lambda name: sum(seeds[name]))
    overlapping = {name for name in seeds if max(seeds[name]) >= min(seeds[best.rung.name])} - {best.rung.name}
    assert {rung.name for rung in best.tied} == overlapping
    assert overlapping
    assert best.lead == f"Use {best.rung.title}."


def test_advice_of_one_seed_promises_nothing(tmp_path: Path) -> None:
    files = read_study(drawn_study(tmp_path, seeds=(0,), rungs=["atss", "gfl"]))
    best = advice(files)
    assert best is not None
    assert best.lead.startswith("The best so far is")
    assert "may be chance" in best.sentences[0]
    effects = [effect for claim in claims(files) for effect in claim.effects]
    assert effects
    assert all("one seed each" in effect for effect in effects)


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rungs in three folds: look, do not touch."""
    return drawn_study(tmp_path_factory.mktemp("folds"), rungs=["atss", "gfl"], folds=True)


def test_page_of_a_study_over_folds_speaks_of_folds(folds: Path, blank_charts: None) -> None:
    assert conforms(read_json(folds / "study.json"), Study)
    html = write_report(folds, folds.with_name("page.html")).read_text(encoding="utf-8")
    words = " ".join(re.sub(r"<[^>]+>", " ", html).split())
    assert "on the 4 photos, mean of 3 folds." in words
    assert "the standard deviation over the folds" in words
    assert "t-test paired by fold, corrected for trainings that share photos" in words
    assert "the next fold selects the weights with the best AP, and the third trains." in words
    assert "fold 3 1" in words  # photos
    assert not re.search(r"\bseeds? (each|of|is)\b|the seeds|test split", words)


def test_advice_over_folds_is_that_of_the_paired_test(folds: Path) -> None:
    files = read_study(folds)
    best = advice(files)
    assert best is not None
    assert best.rung.name == "gfl"
    undecided = "Its AP does not differ from ATSS, centerness beyond the spread of the folds"
    for tied in (["atss"], []):
        files.tied["gfl"] = tied
        told = advice(files)
        assert told is not None
        assert [rung.name for rung in told.tied] == tied
        assert told.sentences[0].startswith(undecided if tied else "It is better than every other rung, beyond")


def test_photos_of_another_fold_are_not_shown_beside(tmp_path: Path, blank_charts: None) -> None:
    folder = drawn_study(tmp_path, rungs=["atss", "gfl"], folds=True)
    details = read_json(folder / "details" / "gfl-0.json")
    details["photos"] = details["photos"][1:]
    (folder / "details" / "gfl-0.json").write_text(json.dumps(details))
    photos = study_context(read_study(folder))["photos"]
    assert photos["absent"] == ["GFL"]
    assert [panel.title for panel in photos["photos"][0].panels[1:]] == ["ATSS, centerness"]


def test_command_holds_what_differs_from_the_defaults_and_no_more(study: Path) -> None:
    files = read_study(study)
    files.study["settings"] |= {"size": 416, "pretrained": True, "backbone_weights": None, "data": "my photos"}
    files.study["data"] = "my photos"
    rung = files.rung("retinanet-bce-no-prior")
    assert rung is not None
    options = set(train_command(files, rung).removeprefix("focaldet train --data 'my photos' --").split(" --"))
    own = {"method retinanet", "class-loss bce", "prior-prob 0.5"}
    assert options == own | {"size 416", "minutes 10.0", "pretrained", "num-bins 17"}  # which follows from the levels


def test_command_switches_off_what_the_study_had_off(small: Path) -> None:
    change(small / "study.json", settings={"pretrained": False})
    files = read_study(small)
    assert train_command(files, files.rung("gfl")).endswith("--no-pretrained")


def test_rungs_that_were_not_chosen_are_not_told(small: Path) -> None:
    files = read_study(small)
    told = claims(files)
    assert not about(told, "Focal loss")
    assert about(told, "Distribution focal")
    context = study_context(files)
    assert context["imbalance"]["shown"].name == "atss"
    assert not context["ladder"]["sweeps"]


def test_few_sides_say_nothing_of_distributions(tmp_path: Path, blank_charts: None) -> None:
    folder = drawn_study(tmp_path, rungs=["gfl"], seeds=(0,))
    (folder / "neuron.json").unlink()
    line = json.loads((folder / "study.jsonl").read_text())
    line["deviations"]["sides"] = 4
    (folder / "study.jsonl").write_text(json.dumps(line))
    (told,) = [claim for claim in claims(read_study(folder)) if "Distribution" in claim.lead]
    assert "correlation" not in told.words
    assert study_context(read_study(folder))["sides"] is None


def test_study_that_is_still_running_names_what_is_missing(tmp_path: Path, blank_charts: None) -> None:
    folder = drawn_study(tmp_path, finished=2, seeds=(0,))
    (folder / "neuron.json").unlink()
    html = write_report(folder).read_text(encoding="utf-8")
    assert "Not finished yet: RetinaNet, focal loss, FCOS, ATSS, centerness," in html
    assert '<section id="ladder">' in html
    assert '<section id="sides">' not in html


def test_study_before_its_first_rung_is_a_page_already(tmp_path: Path, blank_charts: None) -> None:
    html = write_report(drawn_study(tmp_path, finished=0)).read_text(encoding="utf-8")
    assert "No rung has an AP on the 4 photos of the test split yet." in html
    assert '<section id="neuron">' in html


@pytest.mark.parametrize("name", ["study.jsonl", "summary.json", "truth.json", "details/gfl-0.json"])
def test_missing_file_of_a_study_is_named_and_the_rest_is_shown(small: Path, name: str) -> None:
    (small / name).unlink()
    html = write_report(small).read_text(encoding="utf-8")
    assert f"<li>{Path(name).name} is missing" in html
    assert '<section id="method">' in html


@pytest.mark.parametrize("values", [{"seeds": 1}, {"objects": {"test": 3}}, {"split": {"test": 1}}])
def test_values_of_another_kind_leave_the_chapter_of_the_method(small: Path, values: dict) -> None:
    change(small / "study.json", **values)
    assert '<section id="method">' in write_report(small).read_text(encoding="utf-8")


def test_number_whose_values_are_no_list_is_left_out(small: Path) -> None:
    rows = read_json(small / "summary.json")["rows"]
    rows[1]["numbers"]["AP"]["values"] = 3
    change(small / "summary.json", rows=rows)
    assert "ATSS, centerness has the highest AP" in write_report(small).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "values", "chapter"),
    [
        ("neuron.json", {"curves": [{"start": 3}]}, "neuron"),
        ("neuron.json", {"curves": [{"start": "saturated", "cost": c} for c in ("quadratic", "cross entropy")]}, "why"),
        ("truth.json", {"images": [{}]}, "photos"),
        ("details/gfl-0.json", {"sharpest": [{"image_id": 0}]}, "sides"),
        ("details/atss-0.json", {"curves_start": {"losses": [{}]}}, "imbalance"),
    ],
)
def test_strange_file_costs_its_chapter_alone(small: Path, name: str, values: dict, chapter: str) -> None:
    change(small / name, **values)
    html = write_report(small).read_text(encoding="utf-8")
    assert f"<li>The chapter “{CHAPTERS[chapter][0]}” cannot be shown" in html
    assert (f'<section id="{chapter}">' in html) == (chapter == "why")  # what to use is said without its reasons
    assert '<section id="ladder">' in html


def test_training_that_diverged_is_a_result(tmp_path: Path, blank_charts: None) -> None:
    rungs = ["retinanet-bce-no-prior", "retinanet-bce"]
    folder = drawn_study(tmp_path, rungs=rungs, seeds=(0,), diverged=(rungs[0],))
    (folder / "neuron.json").unlink()
    html = write_report(folder).read_text(encoding="utf-8")
    assert "1 of 1 diverged" in html
    assert "every run of RetinaNet, cross entropy, no prior diverged" in html
    assert "99.9 % of the first gradient comes from background" in html  # that was measured before
    assert "No predictions are available for: RetinaNet, cross entropy, no prior." in html
    assert "The chapter" not in html


def test_same_photos_stand_side_by_side_and_are_stored_once(context: dict, page: str) -> None:
    photos = context["photos"]["photos"]
    assert [len(photo.panels) for photo in photos] == [9] * 4  # the truth and eight rungs
    assert page.count('<use href="#photo0"/>') == 9
    assert page.count('<image id="photo0"') == 1


def test_hovered_box_has_the_distributions_of_its_own_detection(study: Path, context: dict) -> None:
    photo = context["photos"]["photos"][0]
    (panel,) = [panel for panel in photo.panels if panel.title == "GFL"]
    told = json.loads((study / "details" / "gfl-0.json").read_text())["photos"][0]["boxes"]
    assert panel.boxes
    for box in panel.boxes:
        (own,) = [one for one in told if [*map(lambda v: round(v, 1), one["box_xyxy"][:2])] == [box.x, box.y]]
        thousandths = [[int(p) for p in side.split()] for side in box.sides.split(",")]
        assert thousandths == [[round(1000 * p) for p in side] for side in own["distributions"]]
        assert f"score {own['score']:.2f}" in box.words
    atss = next(panel for panel in photo.panels if panel.title == "ATSS, centerness")
    assert all(not box.sides and "quality 0.80" in box.words for box in atss.boxes)


def test_distribution_stands_where_its_side_would_be() -> None:
    box = {
        "box_xyxy": [20.0, 30.0, 60.0, 50.0],
        "origin_xy": [40.0, 40.0],
        "bin_xy": [10.0, 5.0],
        "distributions": [[0, 0, 1.0, 0, 0]] * 4,  # all in bin 2: 20 px to the left and right, 10 up and down
    }
    curves = distribution_curves(box, side=1, height_px=8.0)
    tips = [[tuple(map(float, p.split())) for p in re.findall(r"[\d.]+ [\d.]+", path)] for path, _ in curves]
    assert (20.0, 32.0) in tips[0]  # left: on the middle, 8 px high
    assert (48.0, 30.0) in tips[1]  # top: to the right of the middle
    assert (60.0, 32.0) in tips[2]
    assert (48.0, 50.0) in tips[3]
    assert [meant for _, meant in curves] == [False, True, False, False]


def test_curves_of_the_family_are_all_drawn(study: Path, context: dict) -> None:
    neuron = json.loads((study / "neuron.json").read_text())
    groups = {group.heading: group.charts for group in context["family"]["charts"]}
    assert len(groups) == 6
    assert all(len(charts) == 2 for charts in groups.values())
    labels = re.findall(
        r'aria-label="([^"]+)"', "".join(str(chart) for charts in groups.values() for _, chart in charts)
    )
    drawn = sum(label.count(" from ") for label in labels[::2])
    gamma_2 = sum(c["parameters"].get("gamma") == 2 and c["parameters"]["alpha"] is None for c in neuron["family"])
    assert drawn == len(neuron["family"]) + gamma_2 + len(neuron["distribution"])  # γ = 2 stands beside α once more


def test_sweep_has_each_value_in_order_with_its_spread(study: Path) -> None:
    files = read_study(study)
    rungs = {0.0: files.rung("retinanet-focal-gamma-0"), 2.0: files.rung("retinanet-focal")}
    chart = str(sweep_chart("s", "γ", {gamma: rung for gamma, rung in rungs.items() if rung}))
    assert re.search(r'aria-label="AP by γ: 0\.\d+ ± 0\.\d+ at 0, 0\.\d+ ± 0\.\d+ at 2\."', chart)
    assert sweep_chart("s", "γ", {0.0: next(iter(files.rungs))}) is None


def test_study_of_another_format_is_refused(small: Path) -> None:
    change(small / "study.json", format=99)
    with pytest.raises(InputError, match="expected format 1, got 99"):
        write_report(small)


def test_study_without_rungs_is_refused(small: Path) -> None:
    (small / "study.json").write_text("{")
    with pytest.raises(InputError, match=r"has no rungs \(study.json cannot be read"):
        write_report(small)


def test_study_beside_a_run_is_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a study and cannot be combined"):
        write_report([small, tmp_path])


def test_boxes_are_drawn_by_the_same_rules_as_on_the_page_of_a_run(context: dict) -> None:
    panels = context["photos"]["photos"][0].panels[1:]
    for box in (box for panel in panels for box in panel.boxes if box.state == "found"):
        assert float(re.search(r"IoU (\d\.\d+)", box.words)[1]) >= MATCH_IOU


def test_a_chapter_has_its_claims_with_what_was_published_and_measured(tmp_path: Path, blank_charts: None) -> None:
    folder = drawn_study(tmp_path, rungs=["boxes", "distil"], seeds=(0, 1, 2))
    context = study_context(read_study(folder))
    assert context["faults"] == []
    tested = {one.claim.rung: one for one in context["boxes"]["tested"]}
    summary = read_json(folder / "summary.json")
    (found,) = (c for c in summary["comparisons"] if (c["rung"], c["number"]) == ("gfl-ciou", "AP"))
    assert f"{found['difference']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})" in tested["gfl-ciou"].here
    words = {"higher": "confirmed", "lower": "contradicted", "within the spread": "within noise"}
    assert tested["gfl-ciou"].verdict == words[found["verdict"]]
    assert [rung.name for rung, _ in context["distil"]["measured"]] == ["gfl", "gfl-large", "gfl-taught"]
    verdicts = [c["verdict"] for c in summary["comparisons"] if (c["rung"], c["number"]) == ("gfl-diou", "AP")]
    rare = [c["verdict"] for c in summary["comparisons"] if (c["rung"], c["number"]) == ("gfl-diou", "rare_AP")]
    assert ("GFL, DIoU" in context["boxes"]["without_gain"]) == ("higher" not in verdicts + rare)
    assert context["rare"] is None
    page = render("study.html", context)
    assert 'id="boxes"' in page
    assert 'id="rare"' not in page
    assert "YOLOv6#89" in page
    assert "channels 256" not in context["advice"].command


def test_a_chapter_of_one_seed_decides_nothing(tmp_path: Path, blank_charts: None) -> None:
    folder = drawn_study(tmp_path, rungs=["rare"], seeds=(0,))
    context = study_context(read_study(folder))
    assert {one.verdict for one in context["rare"]["tested"]} == {"one seed"}
    render("study.html", context)


def test_a_rung_without_the_one_before_is_not_measured(tmp_path: Path, blank_charts: None) -> None:
    context = study_context(read_study(drawn_study(tmp_path, rungs=["tood"], seeds=(0, 1))))
    assert {one.verdict for one in context["assign"]["tested"]} == {"–"}
    render("study.html", context)
