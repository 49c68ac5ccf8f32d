import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from focaldet.checks import InputError
from focaldet.data.folder import read_folder
from focaldet.data.truth import coco_truth
from focaldet.engine.compare import Comparison, detect_labelled
from focaldet.engine.detector import Detector
from focaldet.runtime.card import KEY
from runtime.colours import CARD, colour_model


def coco_file(cells: Path, folder: Path, change: Callable[[dict], object] = lambda d: None) -> Path:
    """The validation photos as one COCO file beside copies of them."""
    records, folder = read_folder(cells), Path(shutil.copytree(cells / "JPEGImages", folder))
    document = coco_truth(records.splits["val"], records.class_names)
    for image in document["images"]:
        image["file_name"] = Path(image["file_name"]).name
    change(document)
    (folder / "labels.json").write_text(json.dumps(document))
    return folder / "labels.json"


def test_results_are_those_of_predict_on_each_photo_of_the_split(trained: Path, cells: Path) -> None:
    compared = detect_labelled(trained, cells, score=0.0)
    assert compared.split == "val"  # there is no test
    records = read_folder(cells).splits["val"]
    assert [image["file_name"] for image in compared.truth["images"]] == [str(r.path.resolve()) for r in records]
    detector = Detector.load(trained, score_threshold=0.0)
    for record in records:
        scores = [entry["score"] for entry in compared.results if entry["image_id"] == record.image_id]
        assert scores == pytest.approx(detector.predict(record.path).scores.tolist(), abs=1e-5)


def test_a_split_can_be_chosen(trained: Path, cells: Path) -> None:
    assert len(detect_labelled(trained, cells, split="train").truth["images"]) == 4
    with pytest.raises(InputError, match="no photo in split 'test'; it has train, val"):
        detect_labelled(trained, cells, split="test")


def test_a_coco_file_gives_the_same_as_the_folder(trained: Path, cells: Path, tmp_path: Path) -> None:
    of_folder = detect_labelled(trained, cells, score=0.0)
    of_file = detect_labelled(trained, coco_file(cells, tmp_path / "photos"), score=0.0)
    assert of_file.results == of_folder.results
    assert of_file.truth["annotations"] == of_folder.truth["annotations"]


def test_classes_are_matched_by_name_and_others_are_left_out(trained: Path, cells: Path, tmp_path: Path) -> None:
    known = Detector.load(trained).class_names

    def rename(document: dict) -> None:
        document["categories"].reverse()
        document["categories"][-1]["name"] = "smear"

    compared = detect_labelled(trained, coco_file(cells, tmp_path / "photos", rename), score=0.0)
    assert compared.truth["categories"] == [{"id": 2, "name": known[1]}, {"id": 3, "name": known[2]}]
    whole = detect_labelled(trained, cells, score=0.0)
    for kept, all_of_them in (
        (compared.truth["annotations"], whole.truth["annotations"]),
        (compared.results, whole.results),
    ):
        expected = [(e["image_id"], e["category_id"], e["bbox"]) for e in all_of_them if e["category_id"] != 1]
        assert sorted((e["image_id"], e["category_id"], e["bbox"]) for e in kept) == sorted(expected)
    assert compared.notes == [
        "objects of classes that the detector does not know are left out: smear",
        f"boxes of classes that the labels do not have are left out: {known[0]}",
    ]


def test_labels_of_other_classes_altogether_are_refused(trained: Path, cells: Path, tmp_path: Path) -> None:
    def rename(document: dict) -> None:
        for category in document["categories"]:
            category["name"] = f"not {category['name']}"

    with pytest.raises(InputError, match=r"its classes are not .* knows only "):
        detect_labelled(trained, coco_file(cells, tmp_path / "photos", rename))

    def add(document: dict) -> None:
        rename(document)
        document["categories"] += [{"id": 10 + number, "name": f"kind{number}"} for number in range(77)]

    with pytest.raises(
        InputError, match=r"its classes are not .*, kind4 and 72 more; .* knows only Platelets, RBC, WBC$"
    ):
        detect_labelled(trained, coco_file(cells, tmp_path / "more", add))


def test_a_damaged_photo_is_left_out_and_named(trained: Path, cells: Path, tmp_path: Path) -> None:
    file = coco_file(cells, tmp_path / "photos")
    first = file.parent / json.loads(file.read_text())["images"][0]["file_name"]
    first.write_bytes(first.read_bytes()[:2000])
    compared = detect_labelled(trained, file, score=0.0)
    (image,) = compared.truth["images"]
    assert {entry["image_id"] for entry in compared.truth["annotations"]} == {image["id"]}
    (note,) = compared.notes
    assert note.startswith(f"photo left out: {first}: damaged image")


def test_a_file_that_is_no_coco_file_is_one_line(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text("[1, 2]")
    with pytest.raises(InputError, match=r"labels\.json: expected a JSON object"):
        detect_labelled(trained, tmp_path / "labels.json")


def names(compared: Comparison) -> list[str]:
    return sorted(Path(image["file_name"]).name for image in compared.truth["images"])


def photos_in(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "JPEGImages").iterdir())


def test_where_a_folder_gives_no_splits_no_photo_that_trained_the_run_is_looked_at(
    run: Path, unsplit_cells: Path
) -> None:
    everything = photos_in(unsplit_cells)
    for rest in (everything[:2], everything[3:5]):  # no draw gives both
        train = [name for name in everything if name not in rest]
        (run / "splits.json").write_text(json.dumps({"train": train, "val": rest[:1], "test": rest[1:]}))
        compared = detect_labelled(run, unsplit_cells)
        assert (compared.split, names(compared)) == ("test", rest[1:])
        assert compared.notes[0] == (
            "compared: 1 of 6 photos (test); train, val and test as recorded by the run, because the folder has none"
        )
        assert names(detect_labelled(run, unsplit_cells, split="val")) == rest[:1]


def test_a_run_without_a_test_split_is_looked_at_on_val(trained: Path, cells: Path, unsplit_cells: Path) -> None:
    compared = detect_labelled(trained, unsplit_cells)
    assert (compared.split, names(compared)) == ("val", names(detect_labelled(trained, cells)))


def test_splits_that_the_folder_gives_are_left_alone_and_photos_that_trained_are_counted(
    run: Path, cells: Path
) -> None:
    assert detect_labelled(run, cells).notes == []
    given = [record.file_name for record in read_folder(cells).splits["val"]]
    (run / "splits.json").write_text(json.dumps({"train": given[:1], "val": ["other.jpg"]}))
    compared = detect_labelled(run, cells)
    assert names(compared) == given
    assert compared.notes == [
        "1 of these 2 photos trained the detector. A detector scores higher on its training photos than on new ones"
    ]


def test_a_coco_file_of_photos_that_trained_says_so(run: Path, cells: Path, tmp_path: Path) -> None:
    (run / "splits.json").write_text(json.dumps({"train": photos_in(cells)}))
    file = coco_file(cells, tmp_path / "photos")
    (note,) = detect_labelled(run, file).notes
    assert note.startswith("2 of these 2 photos trained the detector. ")


def test_of_a_folder_without_splits_all_photos_are_looked_at_that_the_run_does_not_know(
    run: Path, unsplit_cells: Path
) -> None:
    everything = photos_in(unsplit_cells)
    (run / "splits.json").write_text(json.dumps({"train": everything[:1], "val": ["other.jpg"]}))
    compared = detect_labelled(run, unsplit_cells)
    assert (compared.split, names(compared)) == ("test", everything[1:])
    assert compared.notes[0].endswith("; 5 photos not recorded, now in test")


def test_a_run_that_recorded_nothing_looks_at_all_photos_and_says_so(run: Path, unsplit_cells: Path) -> None:
    (run / "splits.json").unlink()
    compared = detect_labelled(run, unsplit_cells)
    assert (compared.split, names(compared)) == ("", photos_in(unsplit_cells))
    assert compared.notes == [
        "compared: 6 of 6 photos; the folder has no splits; the run has no record of its training photos. "
        "A detector scores higher on its training photos than on new ones"
    ]
    drawn = detect_labelled(run, unsplit_cells, split="val")
    assert names(drawn) == sorted(record.file_name for record in read_folder(unsplit_cells).splits["val"])
    assert "no record of its training photos" in drawn.notes[0]


def test_an_exported_model_knows_the_splits_of_the_run_that_it_lies_in_and_none_elsewhere(
    run: Path, cells: Path, unsplit_cells: Path, tmp_path: Path
) -> None:
    card = replace(CARD, class_names=Detector.load(run).class_names)
    inside = run / "model.onnx"
    inside.write_bytes(colour_model({KEY: card.to_json()}))
    compared = detect_labelled(inside, unsplit_cells)
    assert (compared.split, names(compared)) == ("val", names(detect_labelled(run, cells)))
    elsewhere = Path(shutil.copy(inside, tmp_path / "alone.onnx"))
    assert names(detect_labelled(elsewhere, unsplit_cells)) == photos_in(unsplit_cells)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", r"nowhere: no such folder or COCO file$"),
        ("photo.jpg", r"photo\.jpg: expected a folder of labelled photos, or a COCO file, whose name ends in \.json$"),
        ("damaged.json", r"damaged\.json: not readable as JSON"),
    ],
)
def test_labels_that_are_none_are_one_line(trained: Path, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "damaged.json").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(InputError, match=message) as caught:
        detect_labelled(trained, tmp_path / name)
    assert "\n" not in str(caught.value)
