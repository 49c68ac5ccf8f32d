import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file

from focaldet.checks import InputError
from focaldet.engine.conversions import to_supervision
from focaldet.engine.detector import Detector
from focaldet.engine.load import load_model
from focaldet.engine.spec import METHODS, read_spec, save_model
from focaldet.runtime.predict import list_images, predict_files
from focaldet.structures import Detections

EXIF_ORIENTATION = 274


@pytest.fixture
def photo(cells: Path) -> Path:
    return sorted((cells / "JPEGImages").iterdir())[0]


@pytest.fixture
def small_photos(cells: Path, tmp_path: Path) -> list[Path]:
    """The six photos, small: pictures of them are drawn in no time."""
    (tmp_path / "small").mkdir()
    files = [tmp_path / "small" / file.name for file in sorted((cells / "JPEGImages").iterdir())]
    for file in files:
        opened(cells / "JPEGImages" / file.name).resize((96, 72)).save(file)
    return files


def opened(file: Path) -> Image.Image:
    with Image.open(file) as image:
        image.load()
    return image


@pytest.fixture
def detector(trained: Path) -> Detector:
    """It has hardly learned anything, but without a threshold it still finds boxes."""
    return Detector.load(trained, score_threshold=0.0)


def same(a: Detections, b: Detections) -> bool:
    assert a.side_std_px is not None
    assert b.side_std_px is not None
    pairs = [(a.boxes_xyxy, b.boxes_xyxy), (a.scores, b.scores), (a.labels, b.labels), (a.side_std_px, b.side_std_px)]
    return all(torch.equal(x, y) for x, y in pairs)


def one_line(error: pytest.ExceptionInfo[InputError]) -> bool:
    return "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_path_an_image_and_an_array_give_the_same(detector: Detector, photo: Path) -> None:
    image = opened(photo)
    found = detector.predict(photo)
    assert len(found.scores) > 0
    assert same(found, detector.predict(str(photo)))
    assert same(found, detector.predict(image))
    assert same(found, detector.predict(np.asarray(image)))


def test_boxes_lie_in_the_photo_and_deviations_are_positive(detector: Detector, photo: Path) -> None:
    width, height = opened(photo).size
    found = detector.predict(photo)
    assert bool((found.boxes_xyxy >= 0).all())
    assert bool((found.boxes_xyxy <= torch.tensor([width, height, width, height])).all())
    assert found.boxes_xyxy[:, 2].max() > detector.spec.size
    assert found.side_std_px is not None
    assert bool((found.side_std_px > 0).all())
    assert bool((found.scores[:-1] >= found.scores[1:]).all())


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_rotated_photo_gives_the_boxes_of_the_displayed_one(
    detector: Detector, photo: Path, tmp_path: Path, orientation: int
) -> None:
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # PIL.Image.Transpose
    displayed = opened(photo).resize((96, 64))
    stored = displayed.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    expected = detector.predict(displayed)
    assert same(expected, detector.predict(tmp_path / "turned.png"))
    upright = ImageOps.exif_transpose(opened(tmp_path / "turned.png"))
    assert same(expected, detector.predict(upright))


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "I;16"])
def test_an_image_of_another_mode_gives_the_same_as_its_file(
    detector: Detector, photo: Path, tmp_path: Path, mode: str
) -> None:
    image = opened(photo)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    file = tmp_path / "photo.tif"
    image.save(file)
    assert same(detector.predict(file), detector.predict(opened(file)))


def test_arrays_that_are_no_photo_are_named(detector: Detector) -> None:
    for array in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((3, 4, 4), np.uint8)):
        with pytest.raises(InputError, match=r"expected \(H, W, 3\) uint8 RGB, got \("):
            detector.predict(array)


def test_supervision_carries_classes_scores_and_deviations(detector: Detector, photo: Path) -> None:
    found = detector.predict(photo)
    theirs = to_supervision(found, detector.class_names)
    assert len(theirs) == len(found.scores) > 0
    assert found.side_std_px is not None
    assert np.array_equal(theirs.xyxy, found.boxes_xyxy.numpy())
    assert theirs.confidence is not None
    assert np.array_equal(theirs.confidence, found.scores.numpy())
    assert list(theirs.data["class_name"]) == [detector.class_names[i] for i in found.labels.tolist()]
    best = theirs[theirs.confidence >= found.scores[0].item()]
    assert np.array_equal(best.data["side_std_px"], found.side_std_px.numpy()[: len(best)])


def test_supervision_takes_a_photo_without_a_box() -> None:
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    assert len(to_supervision(none, ("a",))) == 0


def test_predictions_are_coco_results_with_deviations(trained: Path, small_photos: list[Path], tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    out, photo = tmp_path / "out", small_photos[0]
    assert predict_files(load_model(trained, score=0.0), [photo.parent], out, score=0.0) == []
    document = json.loads((out / "predictions.json").read_text())
    assert len(document["images"]) == 6
    assert {entry["image_id"] for entry in document["annotations"]} <= {image["id"] for image in document["images"]}
    found = Detector.load(trained, score_threshold=0.0).predict(photo)
    entries = [entry for entry in document["annotations"] if entry["image_id"] == 1]
    assert len(entries) == len(found.scores) > 0
    x1, y1, x2, y2 = found.boxes_xyxy[0].tolist()
    assert entries[0]["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=1e-3)
    assert found.side_std_px is not None
    assert entries[0]["side_std"] == pytest.approx(found.side_std_px[0].tolist(), abs=1e-3)
    truth = COCO()
    truth.dataset = document | {"info": {}, "annotations": []}
    truth.createIndex()
    assert len(truth.loadRes(document["annotations"]).anns) == len(document["annotations"])
    with Image.open(out / f"{photo.stem}.png") as drawn:
        assert min(drawn.size) > 0


def test_photos_of_one_name_keep_their_pictures_apart(trained: Path, small_photos: list[Path], tmp_path: Path) -> None:
    photo = small_photos[0]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        shutil.copy(photo, tmp_path / folder / "cell.jpg")
    opened(photo).save(tmp_path / "one" / "cell.png")
    (tmp_path / "deep" / "one").mkdir(parents=True)
    shutil.copy(photo, tmp_path / "deep" / "one" / "cell.jpg")
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "deep" / "one"]
    predict_files(load_model(trained, score=0.0), folders, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.png"))) == 4


def test_pictures_never_take_the_place_of_the_photos(trained: Path, photo: Path, tmp_path: Path) -> None:
    opened(photo).save(tmp_path / "cell.png")
    before = (tmp_path / "cell.png").read_bytes()
    (tmp_path / "predictions.json").touch()
    with pytest.raises(InputError, match=r"would overwrite cell\.png itself"):
        predict_files(load_model(trained, score=0.0), [tmp_path], tmp_path)
    assert (tmp_path / "cell.png").read_bytes() == before


def test_a_text_file_among_photos_is_named_and_the_others_are_done(
    trained: Path, small_photos: list[Path], tmp_path: Path
) -> None:
    photo = small_photos[0]
    (tmp_path / "notes.jpg").write_text("not a photo")
    faults = predict_files(load_model(trained, score=0.0), [tmp_path / "notes.jpg", photo], tmp_path / "out")
    assert len(faults) == 1
    assert "notes.jpg" in faults[0]
    assert "\n" not in faults[0]
    assert (tmp_path / "out" / f"{photo.stem}.png").exists()


def test_paths_without_photos_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="contains no photo"):
        list_images([tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(InputError, match="no such file or folder"):
        list_images([tmp_path / "nothing"], tmp_path / "out")


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_run_with_a_file_missing_names_it(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: no such file") as error:
        Detector.load(run)
    assert one_line(error)


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run folder"):
        Detector.load(tmp_path / "nothing")


def edit_model(run: Path, change: Callable[[dict], object]) -> None:
    document = json.loads((run / "model.json").read_text())
    change(document)
    (run / "model.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=2, focaldet="9.9"), r"format 2, written by focaldet 9\.9"),
        (lambda d: d.update(format="one"), "format one"),
        (lambda d: d.pop("format"), "'format' is missing"),
        (lambda d: d.pop("class_names"), "'class_names' is missing"),
        (lambda d: d.update(class_names=3), "class_names"),
        (lambda d: d.update(class_names=[]), "class_names"),
        (lambda d: d.update(method="glf"), "did you mean 'gfl'"),
        (lambda d: d.update(method=["gfl"]), "method"),
        (lambda d: d.update(size="large"), "size"),
        (lambda d: d.update(channels=None), "channels"),
        (lambda d: d.update(method_options={"num_bims": 3}), "num_bims"),
        (lambda d: d.update(method_options=[]), "method_options"),
        (lambda d: d.update(method_options={"num_bins": "many"}), "method_options: num_bins: expected int"),
        (lambda d: d.update(method="atss", method_options={"stds": [1, 1]}), "method_options: stds"),
        (lambda d: d.update(size=10**9), "size: expected 32 to 4096"),
        (lambda d: d.update(network={"pad_to": 10**9}), "pad_to: expected 1 to 1024"),
        (lambda d: d.update(reading={"candidates": 0}), "candidates: expected at least 1"),
        (lambda d: d.update(reading={"nms_iou": float("nan")}), "nms_iou: expected a number"),
        (lambda d: d.update(resize={"short_side": -3}), "short_side: expected 1 to 4096"),
        (lambda d: d.update(reading={"offset": float("nan")}), "offset: expected a number"),
        (lambda d: d.update(reading={"offset": 1e30}), "offset: expected 0 to 1"),
        (lambda d: d.update(reading={"shift_px": 1e30}), "shift_px: expected -128 to 128"),
        (lambda d: d.update(method="gfl", method_options={"num_bins": 10**9}), "num_bins: expected 2 to 1024"),
        (lambda d: d.update(class_names=["cell"] * 10**6), r"does not fit .*model\.json"),
        (lambda d: d.update(reading=3), "reading: expected a mapping"),
        (lambda d: d.update(reading={"nms_iuo": 0.5}), "did you mean 'nms_iou'"),
        (lambda d: d.update(resize={"short_side": "small"}), "short_side: expected int or nothing"),
        (lambda d: d.update(network={"p6_from": "p4"}), "p6_from: unknown value 'p4'"),
        (lambda d: d.update(network={"bottleneck_stride": "1x1"}), "no bottleneck"),
        (lambda d: d.update(evaluation_score="low"), "evaluation_score"),
        (lambda d: d.update(channels=24), r"does not fit .*model\.json"),
        (lambda d: d.update(backbone="mobilenetv3_small_0500"), "mobilenetv3_small_050"),
    ],
)
def test_a_model_json_that_is_wrong_is_one_line(run: Path, change: Callable[[dict], object], message: str) -> None:
    edit_model(run, change)
    with pytest.raises(InputError, match=message) as error:
        Detector.load(run)
    assert one_line(error)


def test_options_that_are_not_in_a_model_json_have_their_defaults(run: Path, photo: Path) -> None:
    spec = Detector.load(run).spec
    edit_model(run, lambda d: [d.pop(name) for name in ("network", "resize", "reading", "evaluation_score")])
    assert Detector.load(run).spec == spec


def test_a_model_json_has_every_option_of_its_method(run: Path) -> None:
    there = json.loads((run / "model.json").read_text())["method_options"]
    assert there == asdict(METHODS["gfl"](num_bins=17))


@pytest.mark.parametrize(("options", "distances"), [({}, "exp"), ({"distances": "relu"}, "relu")])
def test_fcos_whose_defaults_were_left_out_reads_distances_as_it_was_trained(
    run: Path, options: dict[str, Any], distances: str
) -> None:
    edit_model(run, lambda d: d.update(method="fcos", method_options=options))
    assert read_spec(run / "model.json").method_options["distances"] == distances


def test_a_model_keeps_how_its_boxes_are_read(run: Path, photo: Path) -> None:
    edit_model(run, lambda d: d["reading"].update(max_detections=3, score_threshold=0, nms_iou=None))
    edit_model(run, lambda d: d["resize"].update(short_side=40))
    detector = Detector.load(run)
    assert len(detector.predict(photo)) == 3
    assert detector.spec.transform.resize.short_side == 40
    assert detector.postprocess.config.nms_iou is None


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00\x01"])
def test_a_model_json_that_is_no_json_object_is_one_line(run: Path, text: str) -> None:
    (run / "model.json").write_text(text)
    with pytest.raises(InputError, match=r"model\.json") as error:
        Detector.load(run)
    assert one_line(error)


def test_finite_weights_that_give_no_finite_number_are_named(run: Path) -> None:
    weights = load_file(run / "model.safetensors")
    for name, value in weights.items():
        if value.ndim == 4:
            weights[name] = torch.full_like(value, 3e38)
    save_file(weights, run / "model.safetensors")
    with pytest.raises(InputError, match="its network outputs infinity or NaN") as error:
        Detector.load(run)
    assert one_line(error)


def test_truncated_weights_are_named(run: Path) -> None:
    file = run / "model.safetensors"
    for size in (0, 100, file.stat().st_size - 1):
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(InputError, match=r"model\.safetensors: not a readable safetensors file") as error:
            Detector.load(run)
        assert one_line(error)


@pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
def test_weights_of_another_network_are_named(run: Path, change: str) -> None:
    weights = load_file(run / "model.safetensors")
    name = next(key for key in weights if weights[key].ndim == 4)
    if change == "missing":
        del weights[name]
    else:
        weights["more" if change == "surplus" else name] = torch.zeros(3)
    save_file(weights, run / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors: does not fit") as error:
        Detector.load(run)
    assert one_line(error)


def test_a_full_disk_leaves_nothing_half_written(detector: Detector, tiny_disk: Path) -> None:
    with pytest.raises(InputError, match="the disk is full") as error:
        save_model(tiny_disk, detector.spec, detector.net)
    assert one_line(error)
    assert list(tiny_disk.iterdir()) == []


def test_a_full_disk_stops_a_run_with_one_line(tiny_disk: Path, again: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="the disk is full") as error:
        again(out=str(tiny_disk / "run"))
    assert one_line(error)
    assert not [file.name for file in (tiny_disk / "run").iterdir() if file.name.startswith(".")]
    assert not (tiny_disk / "run" / "model.safetensors").exists()


def test_a_full_disk_is_named_when_drawing(trained: Path, photo: Path, tiny_disk: Path) -> None:
    with pytest.raises(InputError, match="the disk is full"):
        predict_files(load_model(trained, score=0.0), [photo], tiny_disk / "out")
    assert [file.name for file in (tiny_disk / "out").iterdir()] == ["predictions.json"]
