"""Map coordinates of a GeoTIFF's pixels, from the standard's tags."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from focaldet.photos.georeference import KEYS, PIXEL_SCALE, TIEPOINT, TRANSFORMATION, Georeference, read_georeference
from focaldet.runtime.geojson import geojson
from focaldet.runtime.model import DetectionArrays

UTM = (1, 1, 0, 1, 3072, 0, 1, 32633)
DEGREES = (1, 1, 0, 1, 2048, 0, 1, 4326)
HALF_METRES: dict[int, Any] = {PIXEL_SCALE: (0.5, 0.25, 0.0), TIEPOINT: (0.0, 0.0, 0.0, 400000.0, 5000000.0, 0.0)}


def tiff(file: Path, tags: dict[int, Any], orientation: int | None = None) -> Path:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for key, value in tags.items():
        info.tagtype[key] = 3 if key == KEYS else 12  # SHORT, DOUBLE
        info[key] = value
    if orientation is not None:
        info[274] = orientation
    Image.new("RGB", (40, 20)).save(file, tiffinfo=info)
    return file


def read(file: Path) -> Georeference:
    place = read_georeference(file)
    assert place is not None
    return place


def test_scale_and_tie_point_place_the_corners(tmp_path: Path) -> None:
    place = read(tiff(tmp_path / "a.tif", HALF_METRES | {KEYS: UTM}))
    assert place.epsg == 32633
    assert place.points([[0, 0], [40, 20]]).tolist() == [[400000, 5000000], [400020, 4999995]]


def test_a_tie_point_may_be_any_pixel(tmp_path: Path) -> None:
    tags = HALF_METRES | {TIEPOINT: (10.0, 4.0, 0.0, 400005.0, 4999999.0, 0.0), KEYS: UTM}
    assert read(tiff(tmp_path / "a.tif", tags)).points([0, 0]).tolist() == [400000, 5000000]


def test_coordinates_of_pixel_centres_are_moved_by_half_a_pixel(tmp_path: Path) -> None:
    keys = (1, 1, 0, 2, 1025, 0, 1, 2, 3072, 0, 1, 32633)
    place = read(tiff(tmp_path / "a.tif", HALF_METRES | {KEYS: keys}))
    assert place.points([0.5, 0.5]).tolist() == [400000, 5000000]


def test_a_matrix_may_turn_the_photo(tmp_path: Path) -> None:
    matrix = (0.0, 2.0, 0.0, 100.0, 3.0, 0.0, 0.0, 200.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    place = read(tiff(tmp_path / "a.tif", {TRANSFORMATION: matrix, KEYS: DEGREES}))
    assert place.points([[0, 0], [10, 1]]).tolist() == [[100, 200], [102, 230]]
    assert place.epsg == 4326


@pytest.mark.parametrize("keys", [(), (1, 1, 0, 1, 3072, 0, 1, 32767), (1, 1)])
def test_a_system_of_its_own_has_no_code(tmp_path: Path, keys: tuple[int, ...]) -> None:
    tags = HALF_METRES | ({KEYS: keys} if keys else {})
    assert read(tiff(tmp_path / "a.tif", tags)).epsg is None


def test_other_files_have_no_place(tmp_path: Path) -> None:
    assert read_georeference(tiff(tmp_path / "plain.tif", {})) is None
    assert read_georeference(tiff(tmp_path / "turned.tif", HALF_METRES, orientation=6)) is None
    assert read_georeference(tiff(tmp_path / "half.tif", {PIXEL_SCALE: (0.5, 0.5, 0.0)})) is None
    assert read_georeference(tiff(tmp_path / "zero.tif", HALF_METRES | {PIXEL_SCALE: (0.0, 0.5, 0.0)})) is None
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert read_georeference(tmp_path / "a.png") is None
    whole = tiff(tmp_path / "a.tif", HALF_METRES).read_bytes()
    (tmp_path / "damaged.tif").write_bytes(whole[:200])
    assert read_georeference(tmp_path / "damaged.tif") is None


def test_boxes_are_polygons_in_the_files_coordinates() -> None:
    place = Georeference(np.array([[0.5, 0, 400000], [0, -0.5, 5000000]]), 32633)
    one = np.array([[10, 20, 30, 60]], np.float32)
    found = DetectionArrays(one, np.array([0.75], np.float32), np.array([1]), np.full((1, 4), 2, np.float32))
    document = json.loads(json.dumps(geojson(found, ("car", "ship"), place)))
    (feature,) = document["features"]
    (ring,) = feature["geometry"]["coordinates"]
    assert ring == [
        [400005.0, 4999970.0],
        [400015.0, 4999970.0],
        [400015.0, 4999990.0],
        [400005.0, 4999990.0],
        [400005.0, 4999970.0],
    ]
    assert feature["properties"] == {"class": "ship", "bbox": [10, 20, 20, 40], "score": 0.75, "side_std": [2] * 4}
    assert document["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"


@pytest.mark.parametrize("matrix", [[[1, 0, 0], [0, -1, 0]], [[1, 0, 0], [0, 1, 0]], [[0, 2, 0], [3, 0, 0]]])
def test_rings_run_counterclockwise_on_the_map(matrix: list) -> None:
    place = Georeference(np.array(matrix, np.float64), 4326)
    found = DetectionArrays(np.array([[1, 2, 3, 5]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64), None)
    document = geojson(found, ("car",), place)
    x, y = np.array(document["features"][0]["geometry"]["coordinates"][0]).T
    assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0
    assert "crs" not in document
