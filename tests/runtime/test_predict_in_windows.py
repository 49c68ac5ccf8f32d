"""``focaldet predict`` in windows, on an exported file and without torch."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from colours import CARD, colour_model
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from focaldet.cli import main
from focaldet.photos import regions
from focaldet.runtime import predict as predicting
from focaldet.runtime.card import KEY, ModelCard
from focaldet.runtime.onnx_detector import OnnxDetector

BOX = np.array([[0, 0, 0, 0], [0.25, 0.25, 0.75, 0.75], [0, 0, 0, 0]], np.float32)
"""Of green, in the middle of each window and of the whole photo."""


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained on windows of 40 px, whose largest objects have 20 px."""
    file = tmp_path_factory.mktemp("tiled") / "tiled.onnx"
    card = replace(CARD, tile=40, largest_px=7)
    file.write_bytes(colour_model({KEY: card.to_json()}, boxes=BOX))
    return file


@pytest.fixture
def green(tmp_path: Path) -> Path:
    Image.new("RGB", (100, 70), (0, 204, 0)).save(tmp_path / "green.png")
    return tmp_path / "green.png"


def boxes(out: Path) -> list[list[float]]:
    return sorted(entry["bbox"] for entry in json.loads((out / "predictions.json").read_text())["annotations"])


def test_the_card_says_the_windows(tiled: Path) -> None:
    model = OnnxDetector.load(tiled)
    assert model.tiling is not None
    assert (model.tiling.tile, model.tiling.overlap, model.tiling.size) == (40, 12, 40)
    assert OnnxDetector.load(tiled, tile=0).tiling is None


def test_a_card_of_an_older_file_has_no_windows() -> None:
    values = json.loads(CARD.to_json())
    del values["tile"], values["largest_px"]
    assert ModelCard.from_json(json.dumps(values)) == CARD


def test_windows_are_looked_at_and_the_photo_is_drawn(tiled: Path, green: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["predict", str(tiled), str(green), "--out", str(out)]) == 0
    in_windows = [[left + 10, top + 10, 20, 20] for left in (0, 28, 56, 60) for top in (0, 28, 30)]
    found = boxes(out)
    # Neighbours overlap too much, and one of them stays; the whole photo's box is larger than a window.
    assert [25, 17.5, 50, 35] in found
    assert len(found) > 4
    assert all(box in in_windows or box == [25, 17.5, 50, 35] for box in found)
    with Image.open(out / "green.png") as drawn:
        assert drawn.width % 100 == 0
    assert main(["predict", str(tiled), str(green), "--tile", "0", "--out", str(out)]) == 0
    assert boxes(out) == [[25, 17.5, 50, 35]]


def test_without_torch_the_same(tiled: Path, green: Path, tmp_path: Path) -> None:
    command = ["predict", str(tiled), str(green), "--out", str(tmp_path / "a")]
    code = f"import sys; sys.modules['torch'] = None\nfrom focaldet.cli import main; sys.exit(main({command}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert main(["predict", str(tiled), str(green), "--out", str(tmp_path / "b")]) == 0
    assert boxes(tmp_path / "a") == boxes(tmp_path / "b")


def test_a_large_photo_is_drawn_smaller(
    tiled: Path, green: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "DRAWN_PIXELS", 1000)
    monkeypatch.setattr(predicting, "DRAWN_SIDE", 50)
    assert main(["predict", str(tiled), str(green), "--out", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "green.png") as drawn:
        assert drawn.width == 200  # 50, enlarged four times as small photos are


def test_what_of_a_truncated_large_photo_can_be_read_is_used_and_it_is_said(
    tiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(regions, "IN_MEMORY", 1000)
    monkeypatch.setattr(regions, "_AT_ONCE", 6400)
    noise = np.random.default_rng(0).integers(0, 2, (400, 100, 3), np.uint8) + np.array([0, 203, 0], np.uint8)
    Image.fromarray(noise.astype(np.uint8)).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    command = ["predict", str(tiled), str(tmp_path / "cut.png"), "--score", "0.6", "--out", str(tmp_path / "out")]
    assert main(command) == 2  # what is missing is grey, which is not as green
    assert "cut.png: rows from" in capsys.readouterr().err
    found = boxes(tmp_path / "out")
    assert found
    assert max(y + height for _, y, _, height in found if height < 30) < 300


def test_a_photo_without_room_for_its_pixels_is_named_and_the_others_are_looked_at(
    tiled: Path, green: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(regions, "IN_MEMORY", 10_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    Image.new("RGB", (200, 200), (0, 204, 0)).save(tmp_path / "large.png")
    command = ["predict", str(tiled), str(tmp_path / "large.png"), str(green), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "large.png: its decoded pixels take" in capsys.readouterr().err
    assert boxes(tmp_path / "out")


def test_windows_beyond_number_are_one_line_for_their_photo_and_the_others_are_looked_at(
    tiled: Path, green: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (1100, 1100), (0, 204, 0)).save(tmp_path / "large.png")
    command = ["predict", str(tiled), str(tmp_path / "large.png"), str(green), "--out", str(tmp_path / "out")]
    assert main([*command, "--overlap", "39"]) == 2
    assert (
        "large.png: overlap: 1,100 x 1,100 px in windows of 40 px, 1 px apart, are 1,125,721 windows; choose a smaller "
        "overlap or a larger tile"
    ) in capsys.readouterr().err
    assert boxes(tmp_path / "out")


def test_a_geotiff_gets_its_boxes_on_the_map_in_windows_or_not(tiled: Path, tmp_path: Path) -> None:
    tags = ImageFileDirectory_v2()
    for key, kind, value in (
        (33550, 12, (2.0, 2.0, 0.0)),
        (33922, 12, (0.0, 0.0, 0.0, 1000.0, 5000.0, 0.0)),
        (34735, 3, (1, 1, 0, 1, 3072, 0, 1, 25832)),
    ):
        tags.tagtype[key] = kind
        tags[key] = value
    Image.new("RGB", (100, 70), (0, 204, 0)).save(tmp_path / "map.tif", tiffinfo=tags)
    for tile, out in (("40", tmp_path / "a"), ("0", tmp_path / "b")):
        assert main(["predict", str(tiled), str(tmp_path / "map.tif"), "--tile", tile, "--out", str(out)]) == 0
        document = json.loads((out / "map.geojson").read_text())
        assert document["crs"]["properties"]["name"].endswith("::25832")
        assert len(document["features"]) == len(boxes(out))
        rings = [feature["geometry"]["coordinates"][0] for feature in document["features"]]
        assert [1050, 4965] in [ring[-2] for ring in rings]  # the top left corner of the whole photo's box


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--overlap", "1.5"], "overlap: expected a share"),
        (["--overlap", "40"], "overlap: expected 0 to 39"),
        (["--tile", "7"], "tile: expected"),
        (["--tile", "5000"], "tile: expected"),
        (["--tile", "0", "--overlap", "0.2"], "--overlap: needs windows"),
        (["--tile", "40.5"], "--tile: expected a whole number"),
    ],
)
def test_windows_out_of_range_are_one_line(
    tiled: Path, green: Path, options: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(tiled), str(green), *options]) == 2
    assert line in capsys.readouterr().err
