"""The code of docs/python.md, README's five lines and the notebook runs, with a shorter training."""

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from cell_photos import write_cells
from tools.notebook import run_notebook

ROOT = Path(__file__).parents[1]
SHORT = {"minutes=10": "epochs=2, batch=2, size=64, channels=16, head_depth=1, backbone='mobilenetv3_small_050'"}


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with labelled ``photos`` and a ``photo.jpg``."""
    photos = write_cells(tmp_path / "photos", {"train": range(4), "val": range(4, 6), "test": range(6, 8)})
    shutil.copy(next((photos / "JPEGImages").iterdir()), tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(code: str, names: dict[str, Any]) -> None:
    for before, after in SHORT.items():
        code = code.replace(before, after)
    exec(compile(code, "<page>", "exec"), names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Lightning to who writes a loop
def test_the_page_about_python(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    blocks = python_blocks(ROOT / "docs" / "python.md")
    assert len(blocks) == 7
    for block in blocks:
        run(block, names)
    assert (here / "found.png").stat().st_size > 1000
    assert names["report"]["split"] == "test"
    assert names["losses"] is not None
    assert len(names["detections"]) == 2
    assert names["page"].exists()
    assert names["run"].class_names == ("red", "white", "platelet")
    assert names["again"].class_names == names["run"].class_names
    assert "test: 2 photos" in capsys.readouterr().out


@pytest.mark.slow
def test_the_five_lines_of_the_readme(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = [block for block in python_blocks(ROOT / "README.md") if "focaldet.train(" in block]
    assert "five lines" in text
    assert len(list(filter(None, block.splitlines()))) == 5
    names: dict[str, Any] = {}
    run(block, names)
    assert len(list(here.glob("*.png"))) == 1
    assert "test: 2 photos" in capsys.readouterr().out


@pytest.mark.slow
def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shorter = {"epochs=15": "epochs=2, backbone='mobilenetv3_small_050', channels=16, head_depth=1"}
    shorter |= {"train=400, val=60, test=60": "train=16, val=8, test=8"}
    done = run_notebook(ROOT / "docs" / "examples" / "python.ipynb", shorter)
    cells = [cell for cell in done["cells"] if cell["cell_type"] == "code"]
    assert "test: 8 photos" in "".join(cells[2]["outputs"][0]["text"])
    assert cells[3]["outputs"][0]["data"]["image/png"].startswith("iVBOR")  # PNG
