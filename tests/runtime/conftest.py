"""The colour model as a file, and photos for it."""

from pathlib import Path

import numpy as np
import pytest
from colours import CARD, colour_model
from PIL import Image

from focaldet.runtime.card import KEY
from focaldet.runtime.onnx_detector import OnnxDetector


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a file; do not change it."""
    file = tmp_path_factory.mktemp("colours") / "colours.onnx"
    file.write_bytes(colour_model({KEY: CARD.to_json()}))
    return file


@pytest.fixture(scope="session")
def model(colours: Path) -> OnnxDetector:
    return OnnxDetector.load(colours)


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 x 60 px: green has 0.8, blue 0.4, and red too little."""
    file = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(np.full((60, 80, 3), (25, 204, 102), np.uint8)).save(file)
    return file
