import shlex
from pathlib import Path

import pytest

from focaldet.records.run_files import Run
from focaldet.report.facts import Counts, commands, metric_rows, result_sentence, step_shares, training_rows


def test_result_names_detector_split_and_counts() -> None:
    run = Run(
        Path("run"),
        model={"method": "gfl", "backbone": "resnet18", "size": 320},
        evaluation={"split": "test", "images": 72, "metrics": {"AP": 0.6124, "AP50": 0.87}},
    )
    sentence = result_sentence(run, Counts(found=900, false=50, missed=100), 0.4)
    for words in (
        "GFL detector (resnet18, 320 px)",
        "AP of 0.612 (AP50 0.870)",
        "72 photos of the test split",
        "threshold of 0.40",
        "900 of 1,000 objects",
        "50 of its 950 boxes are false positives",
    ):
        assert words in sentence


def test_nothing_to_find_and_nothing_drawn_have_no_share() -> None:
    assert Counts(found=0, false=2, missed=0).recall is None
    assert Counts(found=0, false=0, missed=2).precision is None
    assert (Counts(found=3, false=1, missed=2).recall, Counts(found=3, false=1, missed=2).precision) == (0.6, 0.75)


def test_run_without_evaluation_says_how_far_it_is() -> None:
    assert result_sentence(Run(Path("run"), metrics=[{}]), None, 0.5) == (
        "This detector has not been evaluated yet. It has trained for 1 epoch."
    )


def test_commands_survive_a_folder_with_spaces_and_semicolons() -> None:
    run = Run(Path("my runs; rm x"), config={"data": "my photos"}, evaluation={"split": "test"})
    train, evaluate = map(shlex.split, commands(run))
    assert train == ["focaldet", "train", "--config", "my runs; rm x/config.yaml"]
    assert evaluate == ["focaldet", "eval", "my runs; rm x", "--data", "my photos", "--split", "test"]


def test_step_shares_are_the_mean_over_measured_epochs_and_sum_to_one() -> None:
    lines = [{"seconds": {"load": 0.1, "network": 0.3}}, {}, {"seconds": {"load": 0.3, "network": 0.3}}]
    shares = step_shares(Run(Path("run"), metrics=lines))
    assert shares == [
        ("load", pytest.approx(200), pytest.approx(0.4)),
        ("network", pytest.approx(300), pytest.approx(0.6)),
    ]
    assert step_shares(Run(Path("run"), metrics=[{}])) == []


def test_best_validation_is_named_with_its_epoch() -> None:
    lines = [{"epoch": i, "val": {"AP": ap}} for i, ap in enumerate((0.1, 0.5, 0.4))] + [{"epoch": 3, "val": None}]
    assert ("best AP on val", "0.500, epoch 1") in training_rows(Run(Path("run"), metrics=lines))


def test_photos_without_an_object_have_no_ap_and_no_best() -> None:
    nothing = {"AP": None, "AP50": None}
    evaluation = {"split": "val", "images": 1, "objects": 0, "metrics": nothing}
    run = Run(Path("run"), evaluation=evaluation, metrics=[{"epoch": 0, "val": nothing}])
    assert result_sentence(run, None, 0.5) == (
        "This detector has been evaluated on the 1 photo of the val split. There is no AP, because no objects are "
        "labelled there."
    )
    assert not any("best" in name for name, _ in training_rows(run))


def test_ap_of_more_detections_is_named_and_cocos_stands_beside_it() -> None:
    metrics, coco = {"AP": 0.9, "AR100": 0.4, "AR600": 0.95}, {"AP": 0.39, "AP50": 0.4, "AP75": 0.3}
    evaluation = {"max_detections": 600, "metrics": metrics, "coco_metrics": coco}
    run = Run(Path("run"), evaluation=evaluation)
    assert "(at most 600 detections per photo)" in result_sentence(run, None, 0.5)
    rows = {name: (over, value) for name, over, value in metric_rows(run)}
    assert rows["AR600"] == ("recall, 600 boxes per image", 0.95)
    assert rows["COCO's AP"] == ("IoU 0.50 to 0.95, at most 100 detections per photo", 0.39)
    plain = Run(Path("run"), evaluation={"max_detections": 100, "metrics": metrics, "coco_metrics": None})
    assert "at most" not in result_sentence(plain, None, 0.5)
    assert [name for name, _, _ in metric_rows(plain)] == ["AP", "AR100"]
