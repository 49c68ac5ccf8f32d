"""``focaldet predict --labels``: the written labels are read again, by focaldet and by another library."""

import csv
import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from focaldet.checks import InputError
from focaldet.cli import main
from focaldet.data.folder import read_folder
from focaldet.data.prelabels import PreLabels
from focaldet.photos.images import read_photo
from focaldet.runtime.model import DetectionArrays

NAMES = ("Platelets", "RBC, old", "WBC")
LAYOUTS = ["yolo", "voc", "coco", "labelme"]


def found(*rows: tuple[float, float, float, float, float, int]) -> DetectionArrays:
    """Detections from x1, y1, x2, y2, score, label, with deviations of a tenth of the width."""
    values = np.array(rows, np.float32).reshape(-1, 6)
    boxes = values[:, :4]
    stds = np.repeat((boxes[:, 2:3] - boxes[:, :1]) / 10, 4, axis=1)
    return DetectionArrays(boxes, values[:, 4], values[:, 5].astype(np.int64), stds)


def labelled(out: Path, cells: Path, layout: str) -> dict[str, DetectionArrays]:
    """Write pre-labels of three photos. Photo name -> its labels."""
    photos = sorted((cells / "JPEGImages").iterdir())[:3]
    sure = found((10.25, 20.5, 60, 80, 0.99, 1), (100, 30, 200, 150.125, 0.95, 2))
    doubtful = found((-3, 5, 640.5, 300, 0.5, 0), (5, 5, 5, 30, 0.45, 1))  # leaves the photo; has no width
    labels = PreLabels(out, layout, NAMES, [0.4, 0.4, 0.4])
    for photo, each in zip(photos, (sure, doubtful, found()), strict=True):
        height, width = read_photo(photo).shape[:2]
        labels.add(photo, (width, height), each, each)
    labels.write()
    inside = found((0, 5, 640, 300, 0.5, 0))
    return {photo.name: each for photo, each in zip(photos, (sure, inside, found()), strict=True)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_labels_are_read_again(tmp_path: Path, cells: Path, layout: str) -> None:
    written = labelled(tmp_path, cells, layout)
    folder = read_folder(tmp_path / "labels")
    assert (folder.layout, folder.class_names, folder.faults) == (layout, NAMES, ())
    records = {record.path.name: record for records in folder.splits.values() for record in records}
    assert records.keys() == written.keys()
    for name, record in records.items():
        np.testing.assert_allclose(record.boxes_xyxy, written[name].boxes_xyxy, atol=2e-3)
        assert record.labels.tolist() == written[name].labels.tolist()
        assert record.path.samefile(cells / "JPEGImages" / name)


@pytest.mark.filterwarnings("ignore")  # supervision names what it would like to be installed
@pytest.mark.parametrize("layout", ["yolo", "voc", "coco"])
def test_supervision_reads_the_same_boxes(tmp_path: Path, cells: Path, layout: str) -> None:
    supervision = pytest.importorskip("supervision")
    written, place = labelled(tmp_path, cells, layout), str(tmp_path / "labels")
    readers = {
        "yolo": lambda data: data.from_yolo(f"{place}/images/train", f"{place}/labels/train", f"{place}/data.yaml"),
        "voc": lambda data: data.from_pascal_voc(f"{place}/JPEGImages", f"{place}/Annotations"),
        "coco": lambda data: data.from_coco(f"{place}/images/train", f"{place}/annotations/train.json"),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = readers[layout](supervision.DetectionDataset)
        theirs = {Path(path).name: boxes for path, _, boxes in data}
    assert theirs.keys() == written.keys()
    for name, each in written.items():
        np.testing.assert_allclose(theirs[name].xyxy.reshape(-1, 4), each.boxes_xyxy, atol=1.0)  # it rounds VOC
        names = [data.classes[label] for label in theirs[name].class_id] if len(theirs[name]) else []
        assert names == [NAMES[label] for label in each.labels]


def test_a_labelme_file_has_the_keys_of_its_schema(tmp_path: Path, cells: Path) -> None:
    """The keys that LabelFile.load of LabelMe 5 requires, and a photo next to the file."""
    labelled(tmp_path, cells, "labelme")
    files = sorted((tmp_path / "labels" / "train").glob("*.json"))
    assert len(files) == 3
    document = json.loads(files[0].read_text())
    assert {"version", "imageData", "imagePath", "shapes", "flags", "imageHeight", "imageWidth"} == document.keys()
    assert (files[0].parent / document["imagePath"]).is_file()
    shape = document["shapes"][0]
    assert {"label", "points", "group_id", "shape_type", "flags", "description"} == shape.keys()
    assert shape["shape_type"] == "rectangle"
    assert shape["points"] == [[10.25, 20.5], [60.0, 80.0]]


def test_the_list_begins_with_the_photo_with_most_doubt(tmp_path: Path, cells: Path) -> None:
    labelled(tmp_path, cells, "yolo")
    with (tmp_path / "doubts.csv").open() as file:
        rows = list(csv.DictReader(file))
    photos = sorted((cells / "JPEGImages").iterdir())
    assert [Path(row["photo"]) for row in rows] == [photos[1], photos[0], photos[2]]
    assert [row["boxes"] for row in rows] == ["2", "2", "0"]
    assert [row["doubtful"] for row in rows] == ["2", "0", "0"]
    assert float(rows[0]["least_margin"]) == pytest.approx(0.05, abs=1e-3)
    assert float(rows[1]["widest_deviation"]) == pytest.approx(0.1, abs=1e-3)
    assert float(rows[2]["doubt"]) == 0


def test_corrected_labels_are_never_overwritten(tmp_path: Path, cells: Path) -> None:
    labelled(tmp_path, cells, "yolo")
    file = next((tmp_path / "labels" / "labels" / "train").glob("*.txt"))
    file.write_text("corrected")
    with pytest.raises(InputError, match="may have been corrected; choose another --out, or move that folder away"):
        labelled(tmp_path, cells, "yolo")
    assert file.read_text() == "corrected"


def test_the_command_writes_labels_and_refuses_what_has_none(
    trained: Path, cells: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", str(trained), str(cells / "JPEGImages"), "--out", str(tmp_path / "out"), "--labels", "voc"]
    assert main([*arguments, "--score", "0.01"]) == 0
    folder = read_folder(tmp_path / "out" / "labels")
    document = json.loads((tmp_path / "out" / "predictions.json").read_text())
    objects = sum(record.num_objects for records in folder.splits.values() for record in records)
    assert objects == len(document["annotations"]) > 0
    assert "labels to correct" in capfd.readouterr().out
    assert main(arguments) == 2
    assert "choose another --out" in capfd.readouterr().err
    assert main([*arguments[:2], "film.mp4", "--labels", "voc", "--out", str(tmp_path / "film")]) == 2
    assert "is a video; give photos" in capfd.readouterr().err
