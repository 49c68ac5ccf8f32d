"""A calibrated model behind HTTP: responses to requests with and without a score."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from focaldet.engine.load import load_selected
from focaldet.runtime.card import KEY
from focaldet.runtime.selection import ScoreChoices
from focaldet.serve.app import create_app
from runtime.calibrated_colours import CALIBRATION
from runtime.colours import CARD, colour_model


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("calibrated") / "colours.onnx"
    file.write_bytes(colour_model({KEY: replace(CARD, calibration=CALIBRATION.for_export()).to_json()}))
    return file


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Green has 0.8, a chance of 0.5; blue has 0.4, a chance of 0.9."""
    file = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(np.full((60, 80, 3), (25, 204, 102), np.uint8)).save(file)
    return file.read_bytes()


@pytest.fixture
def client(file: Path) -> Iterator[TestClient]:
    model, select = load_selected(file, None, coverage=0.9, lower_only=True)
    with TestClient(create_app(model, name="colours", select=select)) as client:
        yield client


def test_request_without_score_gets_what_the_server_picks(client: TestClient, photo: bytes) -> None:
    (blue,) = client.post("/predict", content=photo).json()["boxes"]
    assert blue["name"] == "blue"
    assert (blue["score"], blue["raw_score"]) == (pytest.approx(0.9), pytest.approx(0.4))
    for low, side, high in zip(blue["side_low_px"], blue["box_xyxy"], blue["side_high_px"], strict=True):
        assert low < side < high


def test_request_with_a_score_gets_all_chances_above_it(client: TestClient, photo: bytes) -> None:
    boxes = client.post("/predict?score=0.45", content=photo).json()["boxes"]
    assert [box["name"] for box in boxes] == ["blue", "green"]
    assert all("side_low_px" in box for box in boxes)
    assert client.post("/predict?score=0.95", content=photo).json()["boxes"] == []


def test_page_begins_with_the_threshold_of_each_class(client: TestClient) -> None:
    assert '"least": [0.5, 0.625, 0.7875]' in client.get("/").text


def test_server_can_promise_a_precision(file: Path, photo: bytes) -> None:
    model, select = load_selected(file, ScoreChoices.parse("precision=0.9"), lower_only=True)
    with TestClient(create_app(model, name="colours", select=select)) as client:
        (green,) = client.post("/predict", content=photo).json()["boxes"]
    assert green["name"] == "green"
    assert "side_low_px" not in green
