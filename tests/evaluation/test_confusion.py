from collections import Counter

import numpy as np
import pytest

from evaluation.many_photos import many_photos, with_false
from focaldet.evaluation.confusion import NO_CLASS, confusion
from focaldet.evaluation.matching import match_run
from focaldet.records.run_files import Run
from report.run_folder import jittered


def counted(objects, boxes, least=(0.3, 0.3)):
    """Cells for one photo: objects are (class, x), boxes are (class, x, score); all are 10 px squares."""
    truth = {
        "images": [{"id": 0, "file_name": "a.png", "width": 200, "height": 20}],
        "categories": [{"id": 0, "name": "cell"}, {"id": 1, "name": "dust"}],
        "annotations": [
            {"id": i + 1, "image_id": 0, "category_id": label, "bbox": [x, 0, 10, 10], "area": 100, "iscrowd": 0}
            for i, (label, x) in enumerate(objects)
        ],
    }
    found = [{"image_id": 0, "category_id": label, "bbox": [x, 0, 10, 10], "score": score} for label, x, score in boxes]
    cells = confusion(match_run(Run(None, truth=truth, predictions=found)), least)
    return {(labelled, predicted): count for labelled, predicted, count in cells}


def test_objects_are_found_taken_for_another_class_or_missed():
    objects = [(0, 0), (0, 20), (1, 40)]
    assert counted(objects, [(0, 0, 0.9), (1, 21, 0.8)]) == {(0, 0): 1, (0, 1): 1, (1, NO_CLASS): 1}


def test_second_box_on_an_object_and_box_on_nothing_are_false_alarms():
    assert counted([(0, 0)], [(0, 0, 0.9), (1, 0, 0.8), (1, 100, 0.7)]) == {(0, 0): 1, (NO_CLASS, 1): 2}
    assert counted([(0, 0)], [(1, 0, 0.9), (1, 1, 0.8)]) == {(0, 1): 1, (NO_CLASS, 1): 1}


def test_boxes_below_the_threshold_of_their_class_do_not_count():
    assert counted([(0, 0)], [(0, 0, 0.4)], least=(0.5, 0.3)) == {(0, NO_CLASS): 1}


@pytest.mark.parametrize("threshold", [0.05, 0.4])
def test_rows_sum_to_the_objects_and_columns_to_the_boxes(tmp_path, threshold):
    truth = many_photos(40, ["cell", "dust"])
    rng = np.random.default_rng(0)
    found = with_false(truth, jittered(truth, seed=0, spread=0.1), 200)
    found = [box | {"category_id": int(rng.integers(0, 2))} if rng.uniform() < 0.2 else box for box in found]
    cells = confusion(match_run(Run(tmp_path, truth=truth, predictions=found)), [threshold] * 2)
    objects, boxes = Counter(), Counter()
    for labelled, predicted, count in cells:
        objects[labelled] += count
        boxes[predicted] += count
    assert {k: n for k, n in objects.items() if k != NO_CLASS} == Counter(
        a["category_id"] for a in truth["annotations"]
    )
    kept = Counter(box["category_id"] for box in found if box["score"] >= threshold)
    assert {k: n for k, n in boxes.items() if k != NO_CLASS} == kept
    assert sum(count for labelled, predicted, count in cells if NO_CLASS < labelled != predicted > NO_CLASS) > 3
