"""docs/export.md: its program detects the same as focaldet, without it; its tables match the code."""

import json
import re
import runpy
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focaldet.runtime.card import ModelCard
from focaldet.runtime.onnx_detector import OnnxDetector

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
TEXT = PAGE.read_text(encoding="utf-8")


def program() -> str:
    """The page's program in Python."""
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    return str(code)


def test_the_program_finds_what_focaldet_finds(
    model: OnnxDetector,
    colours: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noise = np.random.default_rng(0).integers(60, 256, size=(48, 97, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[274] = 6
    files = [tmp_path / name for name in ("plain.png", "turned.jpg", "small.png")]
    Image.fromarray(noise).save(files[0])
    Image.fromarray(noise).save(files[1], exif=turned)
    Image.fromarray(noise[:20, :11]).save(files[2])
    (tmp_path / "detect.py").write_text(program())
    monkeypatch.setattr(sys, "argv", ["detect.py", str(colours), *map(str, files)])
    runpy.run_path(str(tmp_path / "detect.py"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for file, line in zip(files, lines, strict=True):
        answer, found = json.loads(line), model.predict(file)
        assert answer["file"] == str(file)
        assert len(answer["boxes"]) == len(found) > 0
        assert [box["name"] for box in answer["boxes"]] == [model.class_names[label] for label in found.labels]
        assert np.array_equal([box["score"] for box in answer["boxes"]], found.scores)
        assert np.array_equal([box["box_xyxy"] for box in answer["boxes"]], found.boxes_xyxy)
        assert np.array_equal([box["side_std_px"] for box in answer["boxes"]], found.side_std_px)


def test_the_program_is_short_and_needs_no_focaldet() -> None:
    code = program()
    assert len(code.splitlines()) <= 60
    imports = re.findall(r"^(?:import|from) (\w+)", code, flags=re.MULTILINE)
    assert imports == ["json", "sys", "numpy", "onnxruntime", "PIL"]


def test_every_key_of_the_metadata_is_described() -> None:
    for field in fields(ModelCard):
        assert f"`{field.name}`" in TEXT, field.name
