"""Photos in windows behind HTTP: received into a file, the same boxes as ``predict``, limits by area."""

import io
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from focaldet.checks import InputError
from focaldet.engine.load import load_model
from focaldet.photos import regions
from focaldet.photos.regions import open_regions
from focaldet.runtime.model import Model
from focaldet.runtime.window_stream import look_at
from focaldet.serve.app import create_app
from focaldet.serve.limits import DEFAULTS

WIDER = replace(DEFAULTS, megapixels=200.0)


@pytest.fixture(scope="module")
def in_windows(eager: Path) -> Model:
    return load_model(eager, tile=128, overlap=0.25)


@pytest.fixture
def windowed(in_windows: Model) -> Iterator[TestClient]:
    with TestClient(create_app(in_windows, name="cells", score=0.0, limits=WIDER)) as client:
        yield client


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that uploads are received into."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def bytes_of(image: Image.Image, format: str = "PNG") -> bytes:
    image.save(out := io.BytesIO(), format)
    return out.getvalue()


def test_the_boxes_are_those_of_predict(windowed: TestClient, in_windows: Model, photo: Path, uploads: Path) -> None:
    answer = windowed.post("/predict", content=photo.read_bytes())
    assert answer.status_code == 200
    assert in_windows.tiling is not None
    expected = look_at(in_windows, open_regions(photo), in_windows.tiling)
    boxes = [box["box_xyxy"] for box in answer.json()["boxes"]]
    assert len(boxes) == len(expected) > 0
    assert boxes == pytest.approx(expected.boxes_xyxy.round(3), abs=0.01)
    assert "problem" not in answer.json()
    assert list(uploads.iterdir()) == []  # the upload is gone


def test_what_of_a_large_photo_cannot_be_read_is_told(
    windowed: TestClient, photo: Path, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions, "IN_MEMORY", 1000)
    monkeypatch.setattr(regions, "_AT_ONCE", 6400)
    with Image.open(photo) as image:
        whole = bytes_of(image)
    answer = windowed.post("/predict", content=whole[: len(whole) // 2])
    assert answer.status_code == 200
    assert answer.json()["problem"].startswith("image: rows from ")
    assert list(uploads.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "the body is empty"),
        (b"no photo", 400, "image: not an image"),
        (b'{"photo": 1}', 400, "the body is JSON"),
        (bytes_of(Image.new("1", (20_000, 10_001))), 413, "more than 200 million"),
        (bytes_of(Image.new("RGB", (900, 900)))[:900], 400, "image: damaged image"),
    ],
)
def test_what_is_no_photo_is_refused_without_the_files_name(
    windowed: TestClient, uploads: Path, body: bytes, status: int, words: str
) -> None:
    answer = windowed.post("/predict", content=body)
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert str(uploads) not in answer.text
    assert list(uploads.iterdir()) == []


def test_a_photo_above_80_megapixels_needs_windows(model: Model, in_windows: Model) -> None:
    with pytest.raises(InputError, match=r"--max-megapixels 200: .*--tile N"):
        create_app(model, name="cells", limits=WIDER)


def test_requests_at_once_get_their_own_boxes(windowed: TestClient, in_windows: Model, photo: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with Image.open(photo) as image:
        photos = [image.crop((0, 0, 200 + 60 * n, 240)) for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda one: windowed.post("/predict", content=bytes_of(one)).json(), photos))
    assert in_windows.tiling is not None
    for one, answer in zip(photos, answers, strict=True):
        expected = look_at(in_windows, np.asarray(one), in_windows.tiling)
        assert answer["width"] == one.width
        assert len(answer["boxes"]) == pytest.approx(len(expected), abs=2)
