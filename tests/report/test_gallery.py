from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_folder import drawn_truth, jittered

from focaldet.evaluation.matching import match_run
from focaldet.records.run_files import Run
from focaldet.report.gallery import choose, embed_jpeg, prediction_panel


def results_of(tmp_path: Path, num_images: int, **kwargs) -> list:
    truth = drawn_truth(tmp_path / "photos", ["cell"], num_images=num_images)
    return match_run(Run(tmp_path, truth=truth, predictions=jittered(truth, seed=0, **kwargs)))


def test_worst_typical_and_best_are_four_each_and_in_that_order(tmp_path: Path) -> None:
    results = results_of(tmp_path, 40, missed=0.4)
    groups = choose(results, 0.5)
    assert {heading: len(group) for heading, group in groups.items()} == {"Worst": 4, "Typical": 4, "Best": 4}
    f1 = {heading: [r.f1(0.5) for r in group] for heading, group in groups.items()}
    every = sorted(r.f1(0.5) for r in results)
    assert f1["Worst"] == every[:4]
    assert f1["Typical"] == every[18:22]
    assert f1["Best"] == every[:-5:-1]


def test_few_photos_are_all_shown_and_empty_ones_are_not(tmp_path: Path) -> None:
    results = results_of(tmp_path, 5)
    truth = {"images": [{"id": 0, "file_name": "x.jpg", "width": 9, "height": 9}], "annotations": [], "categories": []}
    empty = match_run(Run(tmp_path, truth=truth, predictions=[]))
    (group,) = choose(results + empty, 0.5).values()
    assert {r.file_name for r in group} == {f"photo{i}.jpg" for i in range(5)}
    assert choose(empty, 0.5) == {}


def test_duplicate_box_says_that_another_box_matches_the_object(tmp_path: Path) -> None:
    truth = drawn_truth(tmp_path / "photos", ["cell"], num_images=1)
    box = {"image_id": 0, "category_id": 0, "bbox": truth["annotations"][0]["bbox"], "side_std": [1, 2, 3, 4]}
    predictions = [box | {"score": 0.9}, box | {"score": 0.8}, box | {"score": 0.3}]
    panel = prediction_panel(
        "Predicted", match_run(Run(tmp_path, truth=truth, predictions=predictions))[0], ["cell"], 0.5
    )
    assert panel.words == "1 detected, 2 missed, 1 false positive"
    assert [box.state for box in panel.boxes] == ["found", "false"]
    score, iou, deviations = panel.boxes[0].words.split("; ")
    assert score == "cell, score 0.90"
    assert "IoU 1.00" in iou
    assert "left 1.0, top 2.0, right 3.0, bottom 4.0 px" in deviations
    assert "duplicate" in panel.boxes[1].words


def test_large_photo_is_made_small_and_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    noise = np.random.default_rng(0).integers(0, 255, (1500, 3000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.jpg", exif=exif, quality=95)
    data = embed_jpeg(tmp_path / "large.jpg")
    assert data.startswith("data:image/jpeg;base64,")
    assert len(data) < 500_000
    import base64
    import io

    with Image.open(io.BytesIO(base64.b64decode(data.split(",")[1]))) as image:
        assert image.size == (360, 720)


@pytest.mark.parametrize("mode", ["CMYK", "L", "I;16", "RGBA", "P"])
def test_every_kind_of_photo_is_embedded(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("photo.tif" if mode in ("CMYK", "I;16") else "photo.png")
    Image.new(mode, (30, 20)).save(path)
    assert embed_jpeg(path)


def test_a_photo_of_more_than_80_megapixels_is_embedded_and_what_is_no_photo_is_left_out(tmp_path: Path) -> None:
    Image.new("1", (20_000, 6_000)).save(tmp_path / "huge.png")
    assert embed_jpeg(tmp_path / "huge.png").startswith("data:image/jpeg;base64,")
    (tmp_path / "text.png").write_text("not a photo")
    assert embed_jpeg(tmp_path / "text.png") == ""
    assert embed_jpeg(tmp_path) == ""
