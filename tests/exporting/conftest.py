"""Exports that several test modules share, each made once for all processes, since one takes some ten seconds."""

from pathlib import Path

import pytest
from random_runs import CELLS, TORCHVISION_FCOS, Exported, exported, random_run

from focaldet.engine.detector import Detector
from focaldet.exporting.export import make_file
from once import made_once


def export_once(factory: pytest.TempPathFactory, method: str, *arguments: str, **options: object) -> Exported:
    def make(folder: Path) -> None:
        made = exported(random_run(folder / "run", method, **options), *arguments)
        (folder / "said.txt").write_text(made.said)

    folder = made_once(factory, method, make)
    return Exported(folder / "run", folder / "run.onnx", (folder / "said.txt").read_text())


@pytest.fixture(scope="session")
def gfl(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """GFL in the default export."""
    return export_once(tmp_path_factory, "gfl")


@pytest.fixture(scope="session")
def gflv2_with_maps(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """GFLv2 as exported before 8 bits are chosen: with the head's maps for measuring AP."""

    def make(folder: Path) -> None:
        run = random_run(folder / "run", "gflv2", depth=2, class_names=CELLS)
        file, _ = make_file(Detector.load(run), "onnx", "detections", maps_too=True)
        (folder / "run.onnx").write_bytes(file)

    folder = made_once(tmp_path_factory, "gflv2", make)
    return Exported(folder / "run", folder / "run.onnx", said="")


@pytest.fixture(scope="session")
def raw_fcos(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The maps of an FCOS of torchvision's kind, which takes images in floats, on a network with squeeze and
    excitation."""
    options = {"backbone": "mobilenetv3_small_050", "depth": 2} | TORCHVISION_FCOS
    return export_once(tmp_path_factory, "fcos", "--outputs", "raw", **options)
