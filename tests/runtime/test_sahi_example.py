"""The adapter for SAHI in docs/examples, run by SAHI itself where it is installed (it needs OpenCV and shapely):

pip install --target DIR --no-deps sahi opencv-python-headless shapely
PYTHONPATH=DIR pytest tests/runtime/test_sahi_example.py
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from seen_colours import SeenColours, apart, painted

pytest.importorskip("sahi", reason="SAHI is not installed; the line above installs it beside the packages")

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "sahi"


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> type:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    sys.modules.pop("focaldet_sahi", None)
    from focaldet_sahi import FocaldetModel

    return FocaldetModel


def test_sahi_finds_what_is_painted(adapter: type) -> None:
    from sahi.predict import get_sliced_prediction

    truth = apart((200, 150), 20, 16)
    model = adapter(model=SeenColours(64), confidence_threshold=0.1)
    result = get_sliced_prediction(
        painted((200, 150), truth),
        model,
        slice_height=64,
        slice_width=64,
        overlap_height_ratio=0.4,
        overlap_width_ratio=0.4,
        perform_standard_pred=False,
        postprocess_type="GREEDYNMM",
        postprocess_match_metric="IOS",
        postprocess_class_agnostic=False,
        verbose=0,
    )
    found = [[round(value) for value in one.bbox.to_xyxy()] for one in result.object_prediction_list]
    assert sorted(found) == sorted(truth.tolist())
    assert {one.category.name for one in result.object_prediction_list} == {"first", "second"}


def test_an_exported_file_and_a_run_load(adapter: type, colours: Path, photo: Path) -> None:
    from sahi.predict import get_prediction

    model = adapter(model_path=str(colours), confidence_threshold=0.5)
    with Image.open(photo) as image:
        result = get_prediction(np.asarray(image.convert("RGB")), model)
    (green,) = result.object_prediction_list
    assert green.category.name == "green"
    assert green.score.value == pytest.approx(0.8, abs=1e-3)
