"""The page of errors: kinds, order and contents."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_folder import drawn_truth

from focaldet.evaluation.matching import UNMATCHED, match_run
from focaldet.records.run_files import Run
from focaldet.report import write_errors
from focaldet.report.errors import Error, errors_context, find_errors
from focaldet.report.gallery import embed_cutouts

NAMES = ["cell", "dust"]
CELL, DUST = [10, 10, 40, 40], [100, 60, 20, 20]  # a photo's two objects; 160 x 120 px


def scene(tmp_path: Path, *predicted: tuple[str, list[float], float], objects: int = 2) -> tuple[dict, list[dict]]:
    """One photo with a cell and a piece of dust, and boxes as (class, x y width height, score)."""
    truth = drawn_truth(tmp_path / "photos", NAMES, num_images=1)
    there = [(0, CELL), (1, DUST)][:objects]
    truth["annotations"] = [{"image_id": 0, "category_id": k, "bbox": box} for k, box in there]
    results = [
        {"image_id": 0, "category_id": NAMES.index(name), "bbox": box, "score": score, "side_std": [1, 2, 3, 4]}
        for name, box, score in predicted
    ]
    return truth, results


def errors_of(tmp_path: Path, *predicted: tuple[str, list[float], float], threshold: float = 0.0) -> list[Error]:
    truth, results = scene(tmp_path, *predicted)
    return find_errors(match_run(Run(tmp_path, truth=truth, predictions=results)), threshold)


def written(tmp_path: Path, *predicted: tuple[str, list[float], float], objects: int = 2, score: float = 0.3) -> str:
    truth, results = scene(tmp_path, *predicted, objects=objects)
    page = write_errors(truth, results, tmp_path / "errors.html", score=score, title="run on cells")
    return page.read_text(encoding="utf-8")


def test_a_box_on_an_object_of_another_class_is_a_confusion_and_that_object_is_not_missed(tmp_path: Path) -> None:
    (error,) = errors_of(tmp_path, ("cell", CELL, 0.9), ("cell", DUST, 0.8))
    assert (error.kind, error.box, error.gt) == ("confusion", 1, 1)
    assert error.weight == 0.8


def test_a_second_class_on_an_object_that_was_found_is_a_confusion_too(tmp_path: Path) -> None:
    (error,) = errors_of(tmp_path, ("cell", CELL, 0.9), ("dust", CELL, 0.6), ("dust", DUST, 0.9))
    assert (error.kind, error.gt) == ("confusion", 0)


def test_a_second_box_on_an_object_that_was_found_is_a_false_alarm(tmp_path: Path) -> None:
    (error,) = errors_of(tmp_path, ("cell", CELL, 0.9), ("cell", CELL, 0.6), ("dust", DUST, 0.9))
    assert (error.kind, error.gt) == ("false alarm", UNMATCHED)


def test_a_box_beside_an_object_is_a_false_alarm_and_a_miss(tmp_path: Path) -> None:
    x, y, width, height = CELL
    beside = [x + width / 2, y, width, height]  # IoU 1/3
    kinds = {error.kind for error in errors_of(tmp_path, ("dust", beside, 0.9), ("dust", DUST, 0.9))}
    assert kinds == {"false alarm", "missed"}


def test_a_confusion_below_the_threshold_is_none_and_its_object_is_missed(tmp_path: Path) -> None:
    errors = errors_of(tmp_path, ("cell", CELL, 0.9), ("cell", DUST, 0.4), threshold=0.5)
    assert [(error.kind, error.gt) for error in errors] == [("missed", 1)]


def test_confident_false_alarms_and_large_missed_objects_come_first(tmp_path: Path) -> None:
    errors = errors_of(tmp_path, ("cell", [60, 0, 9, 9], 0.2), ("cell", [60, 90, 9, 9], 0.7))
    assert [(error.kind, error.weight) for error in errors] == [
        ("missed", 1.0),  # the cell, the largest of two objects
        ("false alarm", 0.7),
        ("missed", 0.5),  # the dust
        ("false alarm", 0.2),
    ]


def test_photos_are_ranked_by_the_sum_of_their_errors(tmp_path: Path) -> None:
    truth = drawn_truth(tmp_path / "photos", NAMES, num_images=3)
    exact = [a | {"score": 0.9} for a in truth["annotations"]]
    results = [entry for entry in exact if entry["image_id"] == 0]  # all found
    results += [entry for entry in exact if entry["image_id"] == 2][:2]  # one of three missed
    context = errors_context(Run(tmp_path, truth=truth, predictions=results), 0.3, "t")
    assert [photo.name for photo in context["photos"]] == ["photo1.jpg", "photo2.jpg"]
    counts = re.findall(r"\d+", context["photos"][1].panels[1].words)
    assert counts == ["2", "1", "0", "0"]  # detected, missed, misclassified, false alarms


def test_page_counts_by_class_and_names_the_pairs(tmp_path: Path) -> None:
    html = written(tmp_path, ("cell", CELL, 0.9), ("cell", DUST, 0.8), ("dust", [60, 90, 9, 9], 0.5))
    numbers = {
        name: [int(n) for n in re.findall(r'<td class="n">(\d+)</td>', row)]
        for name, row in re.findall(r'<tr><th scope="row" class="name">(\w+)</th>(.*)</tr>', html)
    }
    assert numbers["cell"] == [1, 1, 0, 0, 0]  # objects, found, taken for another, missed, false alarms
    assert '<th scope="row" class="name">dust</th><td class="n">1</td><td class="n">0</td><td class="n">1</td>' in html
    assert '<th scope="row" class="name">dust</th><td class="name">cell</td><td class="n">1</td>' in html
    assert "1 of 2 labelled objects on 1 photo and misses 0" in html
    assert "Misclassified objects: 1; false alarms: 1" in html


def test_page_states_the_score_and_the_iou_it_was_made_with(tmp_path: Path) -> None:
    html = written(tmp_path, ("cell", CELL, 0.5), score=0.45)
    assert "confidence threshold of 0.45" in html
    assert "IoU is at least 0.5" in html


def test_every_error_has_a_cutout_that_says_what_is_wrong(tmp_path: Path) -> None:
    html = written(tmp_path, ("cell", DUST, 0.8), ("dust", [60, 90, 20, 20], 0.5))
    confusion, false, missed = re.findall(r'<div class="cutouts">(.*?)</section>', html, re.DOTALL)
    assert "<b>cell 0.80</b> <span>this object is labelled dust</span>" in confusion
    assert "<b>dust 0.50</b> <span>touches no labelled dust</span>" in false
    assert "<b>cell</b> <span>40 × 40 px; no box touches it</span>" in missed
    assert 'viewBox="78 38 64 64"' in confusion  # the least that is shown, around the dust
    assert 'viewBox="0 0 88 88"' in missed  # 2.2 x 40, moved into the photo


def test_a_missed_object_near_a_box_that_matches_another_says_so(tmp_path: Path) -> None:
    x, y, width, height = CELL
    truth, results = scene(tmp_path, ("cell", CELL, 0.9))
    truth["annotations"] = [{"image_id": 0, "category_id": 0, "bbox": box} for box in (CELL, [x + 8, y, width, height])]
    page = write_errors(truth, results, tmp_path / "errors.html", score=0.3, title="t")
    assert "cell 0.90, IoU 0.67, matches another object" in page.read_text(encoding="utf-8")  # 32 / 48
    apart = written(tmp_path, ("cell", [x + 20, y, width, height], 0.9))
    assert "cell 0.90, IoU 0.33</span>" in apart


def test_an_overlap_that_rounds_to_zero_is_described_in_words(tmp_path: Path) -> None:
    html = written(tmp_path, ("cell", [49.9, 10, 40, 40], 0.9))  # a tenth of a pixel of 40
    assert "<b>cell 0.90</b> <span>barely touches a labelled cell</span>" in html


def test_a_cutout_shows_the_pixels_it_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (12, 16, 3), np.uint8).repeat(10, axis=0).repeat(10, axis=1)
    Image.fromarray(pixels).save(tmp_path / "photo0.jpg", quality=95, subsampling=0)
    truth, results = scene(tmp_path)
    (result,) = match_run(Run(tmp_path, truth=truth, predictions=results))
    (uri,) = embed_cutouts(tmp_path / "photo0.jpg", result, [(70, 30, 50, 40)])
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
        seen = np.asarray(image).astype(int)
    assert seen.shape == (40, 50, 3)
    assert np.abs(seen - pixels[30:70, 70:120]).mean() < 20
    assert np.abs(seen - pixels[40:80, 70:120]).mean() > 40  # a cell of the pattern farther


def test_a_cutout_of_a_photo_of_another_size_is_of_the_same_place(tmp_path: Path) -> None:
    Image.new("RGB", (80, 60)).save(tmp_path / "half.jpg")  # the truth says 160 x 120
    truth, results = scene(tmp_path)
    (result,) = match_run(Run(tmp_path, truth=truth, predictions=results))
    for uri, size in zip(
        embed_cutouts(tmp_path / "half.jpg", result, [(70, 30, 50, 40), (0, 0, 1, 1)]), [(25, 20), (1, 1)], strict=True
    ):
        with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
            assert image.size == size


def test_no_error_is_a_result_too(tmp_path: Path) -> None:
    html = written(tmp_path, ("cell", CELL, 0.9), ("dust", DUST, 0.8))
    assert "no errors at this threshold" in html
    assert '<div class="cutouts">' not in html


def test_a_photo_without_objects_has_only_false_alarms(tmp_path: Path) -> None:
    html = written(tmp_path, ("cell", CELL, 0.9), objects=0)
    assert "0 of 0 labelled objects" in html
    assert '<section id="false">' in html
    assert '<section id="missed">' not in html


def test_a_photo_that_cannot_be_read_keeps_its_boxes(tmp_path: Path) -> None:
    truth, results = scene(tmp_path, ("cell", CELL, 0.9))
    (tmp_path / "photos" / "photo0.jpg").write_text("no photo")
    html = write_errors(truth, results, tmp_path / "e.html", score=0.3, title="t").read_text(encoding="utf-8")
    assert "data:image/jpeg" not in html
    assert html.count("only its boxes are shown") == 3  # the missed object's cut-out and the photo's two panels


def test_page_loads_nothing_and_hostile_names_stay_text(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    truth, results = scene(tmp_path, ("cell", DUST, 0.8))
    truth["categories"][0]["name"] = truth["images"][0]["file_name"] = hostile
    page = write_errors(truth, results, tmp_path / "e.html", score=0.3, title=hostile, notes=[hostile])
    html = page.read_text(encoding="utf-8")
    assert hostile not in html
    assert html.count("<script") == 1
    assert set(re.findall(r'\bhref="([^#"]{0,22})', html)) <= {"", "data:,", "data:image/jpeg;base64"}


@pytest.mark.parametrize("count", [24, 30])
def test_only_the_worst_are_shown_and_all_are_counted(tmp_path: Path, count: int) -> None:
    many = [("dust", [2.0 * i, 100, 2, 2], 0.31 + i / 100) for i in range(count)]
    html = written(tmp_path, ("cell", CELL, 0.9), ("dust", DUST, 0.9), *many)
    assert html.count('<article aria-label="photo0.jpg, dust') == 24
    assert ("the worst 24 of 30." in html) == (count == 30)
    assert f"false alarms: {count}" in html
