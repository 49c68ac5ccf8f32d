"""Record puncc's factors of bands and MAPIE's chances of thresholds for random numbers drawn here.

Neither is needed to develop focaldet: puncc requires NumPy 1, and MAPIE its own version of scikit-learn. In an
environment with NumPy, SciPy, scikit-learn, pandas, joblib and tqdm:

    pip install --no-deps puncc==0.9.3 mapie==1.6.0
    python tests/tools/conformal_fixture.py

puncc: the quantile of SplitConformalPredictor on its own scaled differences of boxes, the largest of the four sides.
MAPIE: the p-value from BinaryClassificationController for each threshold of a precision.
"""

import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).resolve().parents[1] / "fixtures" / "conformal.json"
COVERAGES = (0.8, 0.9, 0.95)
THRESHOLDS = tuple(round(0.05 * k, 2) for k in range(1, 19))
PRECISIONS = (0.7, 0.8, 0.9)


def boxes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true boxes."""
    rng = np.random.default_rng(count)
    low = rng.uniform(0, 300, (count, 2))
    predicted = np.concatenate([low, low + rng.uniform(10, 90, (count, 2))], axis=1).round(1)
    return predicted, (predicted + 3 * rng.standard_t(4, (count, 4))).round(1)


def puncc_factors(predicted: np.ndarray, true: np.ndarray) -> list[float]:
    from deel.puncc.api.nonconformity_scores import scaled_bbox_difference
    from deel.puncc.api.prediction import IdPredictor
    from deel.puncc.regression import SplitCP

    class Given(IdPredictor):
        def predict(self, X: np.ndarray) -> np.ndarray:
            return np.zeros(len(X))

    largest = np.abs(scaled_bbox_difference(predicted, true)).max(axis=1)
    factors = []
    for coverage in COVERAGES:
        conformal = SplitCP(Given(), train=False)  # its score of a box is |0 - largest|
        conformal.fit(X_calib=predicted, y_calib=largest)
        _, low, high = conformal.predict(predicted[:1], alpha=1 - coverage)
        assert np.isclose(-low[0], high[0])
        factors.append(float(high[0]))
    return factors


def mapie_chances(scores: np.ndarray, right: np.ndarray, precision: float) -> list[float]:
    from mapie.risk_control import BinaryClassificationController

    controller = BinaryClassificationController(
        lambda x: np.stack([1 - x[:, 0], x[:, 0]], axis=1),
        risk="precision",
        target_level=precision,
        list_predict_params=np.array(THRESHOLDS),
    )
    controller.calibrate(scores[:, None], right)
    return np.asarray(controller.p_values, np.float64).reshape(-1).tolist()


def main() -> None:
    bands, thresholds = [], []
    for count in (30, 100, 333):
        predicted, true = boxes(count)
        factors = puncc_factors(predicted, true)
        bands.append({"predicted": predicted.tolist(), "true": true.tolist(), "factors": factors})
    for count in (60, 300):
        rng = np.random.default_rng(count)
        scores = rng.uniform(size=count).round(3)
        right = (rng.uniform(size=count) < 1 - (1 - scores) ** 3).astype(int)
        chances = {str(precision): mapie_chances(scores, right, precision) for precision in PRECISIONS}
        thresholds.append({"scores": scores.tolist(), "right": right.tolist(), "p_values": chances})
    content = {"coverages": COVERAGES, "bands": bands, "thresholds": THRESHOLDS, "precision": thresholds}
    FILE.write_text(json.dumps(content) + "\n")
    print(f"{FILE}: {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
