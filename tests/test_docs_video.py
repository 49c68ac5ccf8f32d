"""The code of docs/video.md runs on a video of one photo."""

import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import focaldet
from focaldet.runtime.video import write_video
from test_docs_python import python_blocks

PAGE = Path(__file__).parents[1] / "docs" / "video.md"

# The run of the tests has learned next to nothing, so its scores are low.
LOW = {
    "predict(frame.photo)": "predict(frame.photo, score=0.01)",
    "ByteTrackTracker()": "ByteTrackTracker(track_activation_threshold=0.01, high_conf_det_threshold=0.01)",
}


@pytest.fixture
def here(trained: Path, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "runs/cells")
    with Image.open(min((cells / "JPEGImages").iterdir())) as photo:
        write_video(Path("film.mp4"), [(photo.convert("RGB"), Fraction(10))] * 5)
    return tmp_path


def run_block(code: str, names: dict[str, Any]) -> None:
    for before, after in LOW.items():
        code = code.replace(before, after)
    exec(compile(code, str(PAGE), "exec"), names)


@pytest.mark.filterwarnings("ignore")  # of the tracker's own libraries
def test_objects_of_a_film_keep_their_numbers(here: Path) -> None:
    pytest.importorskip("trackers")
    names: dict[str, Any] = {}
    tracking, other = python_blocks(PAGE)
    run_block(tracking, names)
    assert names["history"]
    longest = max(names["history"].values(), key=len)
    assert len(longest) >= 3  # a film that stands still
    assert np.ptp([box for _, box, _ in longest], axis=0).max() < 3
    assert all(deviation.shape == (4,) for _, _, deviation in longest)
    run_block(other, names)
    np.testing.assert_allclose(names["back"].boxes_xyxy, names["found"].boxes_xyxy)


@pytest.mark.filterwarnings("ignore")
def test_conversions_of_the_page(here: Path) -> None:
    run = focaldet.Run("runs/cells")
    names = {"focaldet": focaldet, "run": run, "found": run.predict(Image.new("RGB", (64, 48)), score=0.0)}
    run_block(python_blocks(PAGE)[1], names)
    assert len(names["back"]) == len(names["found"]) > 0
