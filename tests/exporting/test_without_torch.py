"""``pip install 'focaldet[serve,video]'`` into a separate environment without torch: the same boxes."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from random_runs import Exported

from browser import missing
from focaldet.cli import main
from focaldet.files import write_json
from focaldet.photos.images import read_photo
from focaldet.runtime.onnx_detector import OnnxDetector
from focaldet.runtime.video import write_video

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LEAST = "0.05"
"""Lowest score of a box in a file."""
NEEDED = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
"""Files to install besides src."""
INSTALL = ("install", "--quiet", "--no-compile", "--retries=1", "-c", ROOT / "constraints.txt")
OUTSIDE = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def run(*command: object, code: int = 0) -> str:
    """Output of a program on both streams."""
    done = subprocess.run(
        [*map(str, command)], env=OUTSIDE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def pip(programs: Path, *command: object) -> None:
    """Install into an environment that has no pip itself; skips where there is no package index."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(programs / "python"), *map(str, command)],
        env=OUTSIDE,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and "No matching distribution" in done.stderr:
        missing(f"the package index ({done.stderr.strip()[-300:]})")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources to install, since building leaves files there."""
    source = tmp_path_factory.mktemp("bare") / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.so", "*.egg-info", "__pycache__"))
    for name in NEEDED:
        shutil.copy(ROOT / name, source)
    return source


@pytest.fixture(scope="module")
def programs(source: Path) -> Path:
    """The ``bin`` of such an environment."""
    programs = source.with_name("bare") / "bin"
    run(sys.executable, "-m", "venv", "--without-pip", programs.parent)
    pip(programs, *INSTALL, f"{source}[serve,video]")
    return programs


@pytest.fixture(scope="module")
def openvino_python(programs: Path) -> Path:
    """The interpreter of a copy in which onnxruntime was replaced by its build with OpenVINO."""
    return with_wheel(programs, "onnxruntime-openvino")


@pytest.fixture(scope="module")
def gpu_python(programs: Path) -> Path:
    """Another, with the build for NVIDIA's GPUs."""
    return with_wheel(programs, "onnxruntime-gpu")


def with_wheel(programs: Path, wheel: str) -> Path:
    copy = programs.parent.with_name(wheel)
    shutil.copytree(programs.parent, copy, symlinks=True, copy_function=os.link)  # pip replaces files, never edits them
    pip(copy / "bin", "uninstall", "--quiet", "--yes", "onnxruntime")
    pip(copy / "bin", *INSTALL, wheel)
    return copy / "bin" / "python"  # the copy's other programs would start the original's interpreter


@pytest.fixture(scope="module")
def inputs(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A photo, a folder of photos, and a video."""
    folder = tmp_path_factory.mktemp("inputs")
    photos = sorted((cells / "JPEGImages").iterdir())
    photo, album, film = folder / "photo.jpg", folder / "album", folder / "film.mp4"
    shutil.copy(photos[0], photo)
    album.mkdir()
    shutil.copy(photos[1], album)
    Image.open(photos[2]).rotate(90, expand=True).save(album / "turned.png")
    write_video(film, [(Image.open(file).resize((160, 120)), Fraction(10)) for file in photos[3:]])
    return [photo, album, film]


def written(folder: Path) -> dict:
    document: dict = json.loads((folder / "predictions.json").read_text())
    return document


def test_torch_is_not_there_and_focaldet_is_installed(programs: Path, gfl: Exported, inputs: list[Path]) -> None:
    said = run(programs / "python", "-c", "import torch", code=1)
    assert said.endswith("ModuleNotFoundError: No module named 'torch'\n")
    file = run(programs / "python", "-c", "import focaldet; print(focaldet.__file__)")
    assert Path(file.strip()).is_relative_to(programs.parent)
    said = run(programs / "focaldet", "predict", gfl.run, inputs[0], code=2)
    assert said == "focaldet: predict: torch is not installed; pip install 'focaldet[train]'\n"


def test_photos_folders_and_videos_have_the_boxes_that_they_have_here(
    programs: Path, gfl: Exported, inputs: list[Path], tmp_path: Path
) -> None:
    arguments = ["predict", str(gfl.file), *map(str, inputs), "--score", LEAST]
    run(programs / "focaldet", *arguments, "--out", tmp_path / "there")
    assert main([*arguments, "--out", str(tmp_path / "here")]) == 0
    there, here = written(tmp_path / "there"), written(tmp_path / "here")
    assert len(there["images"]) == 1 + 2 + 3
    assert len(there["annotations"]) > 20
    assert there == here
    names = {file.name for file in (tmp_path / "there").iterdir()}
    assert names == {file.name for file in (tmp_path / "here").iterdir()} > {"photo.png", "turned.png", "film.mp4"}


@pytest.mark.parametrize("asked", [[], ["--openvino"], ["--provider", "openvino"]])
def test_openvino_finds_them_up_to_the_digits_of_bfloat16(
    openvino_python: Path, gfl: Exported, inputs: list[Path], tmp_path: Path, asked: list[str]
) -> None:
    arguments = ["predict", str(gfl.file), *map(str, inputs), "--score", "0.2"]
    said = run(openvino_python, "-m", "focaldet", *arguments, *asked, "--out", tmp_path / "there")
    assert said.startswith("computed by onnxruntime with OpenVINO\n")
    assert main([*arguments, "--out", str(tmp_path / "here")]) == 0
    there, here = (
        np.array([(a["image_id"], a["category_id"], a["score"], *a["bbox"]) for a in written(folder)["annotations"]])
        for folder in (tmp_path / "there", tmp_path / "here")
    )
    assert len(here) > 20
    off = np.abs(there[:, None] - here)
    close = (off <= [0, 0, 0.03, 4, 4, 4, 4]).all(axis=2)
    assert close.any(axis=0).mean() > 0.9
    assert close.any(axis=1).mean() > 0.9


@pytest.mark.skipif(torch.cuda.is_available(), reason="here CUDA starts")
def test_the_wheel_for_gpus_computes_on_the_cpu_where_there_is_none(
    gpu_python: Path, gfl: Exported, inputs: list[Path], tmp_path: Path
) -> None:
    arguments = ["predict", str(gfl.file), str(inputs[0]), "--score", LEAST]
    said = run(gpu_python, "-m", "focaldet", *arguments, "--out", tmp_path / "there")
    assert main([*arguments, "--out", str(tmp_path / "here")]) == 0
    assert "\n" not in said.strip()
    assert len(written(tmp_path / "here")["annotations"]) > 4
    assert written(tmp_path / "there") == written(tmp_path / "here")
    for provider in ("cuda", "tensorrt"):
        said = run(gpu_python, "-m", "focaldet", *arguments, "--provider", provider, "--out", tmp_path / "no", code=2)
        assert said.splitlines()[-1].startswith(f"focaldet: {gfl.file}: ")
        assert "use --provider cpu" in said.splitlines()[-1]


def test_a_photo_needs_numpy_pillow_and_onnxruntime_alone(
    programs: Path, gfl: Exported, inputs: list[Path], tmp_path: Path
) -> None:
    code = (
        "import sys; from focaldet.cli import main\n"
        f"main(['predict', {str(gfl.file)!r}, {str(inputs[0])!r}, '--out', {str(tmp_path)!r}])\n"
        "files = [getattr(module, '__file__', None) or '' for module in sys.modules.values()]\n"
        "print(*{file.split('site-packages/')[1].split('/')[0] for file in files if 'site-packages/' in file})"
    )
    loaded = run(programs / "python", "-c", code).splitlines()[-1]
    assert set(loaded.split()) == {"focaldet", "numpy", "PIL", "onnxruntime"}


def test_the_page_of_errors_is_the_one_that_is_written_here(
    programs: Path, gfl: Exported, inputs: list[Path], tmp_path: Path
) -> None:
    photo = inputs[0]
    found = OnnxDetector.load(gfl.file).predict(photo).above(float(LEAST))
    assert len(found) > 4
    sizes = found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]
    boxes = np.concatenate([found.boxes_xyxy[:, :2], sizes], axis=1)[::2]  # the others are false alarms
    height, width = read_photo(photo).shape[:2]
    truth = {
        "images": [{"id": 1, "file_name": photo.name, "width": width, "height": height}],
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate("abc")],
        "annotations": [
            {"id": n + 1, "image_id": 1, "category_id": int(label) + 1, "bbox": box.tolist(), "iscrowd": 0}
            for n, (box, label) in enumerate(zip(boxes, found.labels[::2], strict=True))
        ],
    }
    labels = photo.with_name("truth.json")
    write_json(labels, truth)
    arguments = ["predict", str(gfl.file), "--compare", str(labels), "--score", LEAST]
    run(programs / "focaldet", *arguments, "--out", tmp_path / "there")
    assert main([*arguments, "--out", str(tmp_path / "here")]) == 0
    there, here = ((tmp_path / folder / "errors.html").read_text() for folder in ("there", "here"))
    assert there.count("false alarm") > 4
    assert there == here


def test_the_image_installs_what_is_installed_here_and_serves_it(programs: Path, gfl: Exported) -> None:
    """The Dockerfile's own commands, as far as they go without Docker."""
    image = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "-c /src/constraints.txt '/src[serve]'" in image
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert sent[0] == "*"
    assert {f"!{name}" for name in (*NEEDED, "src", "constraints.txt")} <= set(sent)
    (command,) = re.findall(r"^#   docker run .* focaldet (serve .*)$", image, flags=re.MULTILINE)
    arguments = command.replace("/models/model.onnx", str(gfl.file)).replace("0.0.0.0", "127.0.0.1").split()
    with subprocess.Popen(
        [programs / "focaldet", *arguments, "--port", "0"], env=OUTSIDE, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            (address,) = re.findall(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
            with urllib.request.urlopen(f"{address}/health", timeout=30) as answer:
                assert json.load(answer)["class_names"] == ["a", "b", "c"]
        finally:
            server.terminate()


def test_the_program_of_the_page_finds_them_without_focaldet(
    programs: Path, gfl: Exported, inputs: list[Path], tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "detect.py").write_text(code)
    answer = json.loads(run(programs / "python", tmp_path / "detect.py", gfl.file, inputs[0]))
    found = OnnxDetector.load(gfl.file).predict(inputs[0])
    assert len(answer["boxes"]) == len(found) > 4
    assert [box["score"] for box in answer["boxes"]] == pytest.approx(found.scores, abs=1e-5)
    assert np.array([box["box_xyxy"] for box in answer["boxes"]]) == pytest.approx(found.boxes_xyxy, abs=1e-2)
    assert np.array([box["side_std_px"] for box in answer["boxes"]]) == pytest.approx(found.side_std_px, abs=1e-2)
