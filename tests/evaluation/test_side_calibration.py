import numpy as np
import pytest

from focaldet.evaluation.matching import match_run
from focaldet.evaluation.side_calibration import side_calibration
from focaldet.records.run_files import Run
from report.run_folder import drawn_truth, jittered


@pytest.fixture
def run(tmp_path) -> Run:
    truth = drawn_truth(tmp_path / "photos", ["cell"], num_images=150)
    return Run(tmp_path, truth=truth, predictions=jittered(truth, seed=0, missed=0.0))


def scaled(run: Run, factor: float) -> list[dict]:
    return [p | {"side_std": [factor * s for s in p["side_std"]]} for p in run.predictions]


def test_deviations_that_are_right_are_called_right(run: Run) -> None:
    calibration = side_calibration(match_run(run), 0.5)
    assert calibration.num_sides > 1000
    assert calibration.within_1 == pytest.approx(0.68, abs=0.04)
    assert calibration.within_2 == pytest.approx(0.95, abs=0.03)
    assert calibration.ratio == pytest.approx(1.0, abs=0.08)
    assert calibration.correlation > 0.4
    assert (np.diff(calibration.predicted_px) > 0).all()


def test_deviations_of_half_the_size_are_too_sure(run: Run) -> None:
    right = side_calibration(match_run(run), 0.5)
    halved = side_calibration(match_run(Run(run.path, truth=run.truth, predictions=scaled(run, 0.5))), 0.5)
    assert halved.ratio == pytest.approx(2 * right.ratio)
    assert halved.within_2 == right.within_1
    assert halved.correlation == pytest.approx(right.correlation)


def test_boxes_without_deviations_have_no_calibration(run: Run) -> None:
    bare = [{k: v for k, v in p.items() if k != "side_std"} for p in run.predictions]
    assert side_calibration(match_run(Run(run.path, truth=run.truth, predictions=bare)), 0.5) is None
    assert side_calibration([], 0.5) is None


def test_constant_deviation_has_no_correlation(run: Run) -> None:
    same = [p | {"side_std": [1.0] * 4} for p in run.predictions]
    calibration = side_calibration(match_run(Run(run.path, truth=run.truth, predictions=same)), 0.5)
    assert calibration.correlation is None
