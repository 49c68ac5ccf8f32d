"""Exports that several modules look at, each of which takes some ten seconds to make."""

import pytest
from random_runs import CELLS, TORCHVISION_FCOS, Exported, exported, random_run

from focaldet.engine.detector import Detector
from focaldet.exporting.export import make_file


@pytest.fixture(scope="session")
def gfl(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """GFL, as it is exported by default."""
    return exported(random_run(tmp_path_factory.mktemp("gfl") / "run", "gfl"))


@pytest.fixture(scope="session")
def gflv2_with_maps(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """GFLv2 as it is exported before 8 bits are chosen: with the head's maps, by which AP is measured."""
    run = random_run(tmp_path_factory.mktemp("gflv2") / "run", "gflv2", depth=2, class_names=CELLS)
    file = run.with_suffix(".onnx")
    file.write_bytes(make_file(Detector.load(run), "onnx", "detections", maps_too=True)[0])
    return Exported(run, file, said="")


@pytest.fixture(scope="session")
def raw_fcos(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The maps of an FCOS of torchvision's kind, which takes images in floats, on a network with squeeze and
    excitation."""
    options = {"backbone": "mobilenetv3_small_050", "depth": 2} | TORCHVISION_FCOS
    return exported(random_run(tmp_path_factory.mktemp("fcos") / "run", "fcos", **options), "--outputs", "raw")
