"""python -m benchmarks.certainty.simulate: four ways to find the factor of a band when boxes of one photo are alike.

Prints the tables of docs/adr/0014-calibration.md; ``--maps`` prints the table of Platt's curve against isotonic
regression. A draw makes calibration photos with about 12 boxes each (1 to 50), whose ratios of error and deviation
share a part rho of their variance within a photo, finds the factor for 90 % by each rule, and measures how many boxes
of 40,000 new photos it covers.
"""

import argparse
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from focaldet.evaluation.score_calibration import fit_isotonic, fit_platt
from focaldet.evaluation.side_bands import conformal_factor

Floats = NDArray[np.float64]

COVERAGE = 0.9
SETTINGS = ((0.0, 0.0), (0.3, 0.0), (0.8, 0.0), (0.3, 0.5))
"""Share of the variance common to the boxes of a photo; and how much harder photos with more boxes are."""


def draw(photos: int, rho: float, harder: float, rng: np.random.Generator) -> tuple[NDArray[np.int64], Floats]:
    """Photo and ratio of each box."""
    counts = 1 + rng.poisson(rng.gamma(1.5, 11 / 1.5, photos))
    common = rng.normal(size=photos) + harder * (np.log(counts) - np.log(12))
    photo = np.repeat(np.arange(photos), counts)
    own = rng.normal(size=len(photo))
    return photo, np.exp(0.6 * (math.sqrt(rho) * common[photo] + math.sqrt(1 - rho) * own))


def ranked(ratios: Floats, extra: float) -> float:
    """The ceil((n + extra) (1 - alpha))-th smallest ratio."""
    rank = math.ceil((len(ratios) + extra) * COVERAGE - 1e-9)
    return math.inf if rank > len(ratios) else float(np.partition(ratios, rank - 1)[rank - 1])


def bootstrap(photo: NDArray[np.int64], ratios: Floats, rng: np.random.Generator, repeats: int = 60) -> float:
    """The 90 % upper bound of the quantile over resampled photos."""
    by_photo = [ratios[photo == index] for index in range(int(photo.max()) + 1)]
    drawn = rng.integers(0, len(by_photo), (repeats, len(by_photo)))
    quantiles = [np.quantile(np.concatenate([by_photo[i] for i in row]), COVERAGE) for row in drawn]
    return float(np.quantile(quantiles, 0.9))


def compare_maps(rng: np.random.Generator) -> None:
    """Mean error of the chances from each kind of map, by the number of detections it is fitted on."""
    truths: dict[str, Callable[[Floats], Floats]] = {
        "logistic": lambda scores: 1 / (1 + np.exp(-10 * (scores - 0.5))),
        "1.4 s^3, at most 0.93": lambda scores: np.clip(1.4 * scores**3, 0, 0.93),
    }
    print("| truth | right or wrong, the fewer | Platt | isotonic |")
    print("|---|---|---|---|")
    for name, truth in truths.items():
        for count in (60, 120, 250, 500, 1000, 2000, 4000):
            errors: list[list[float]] = [[], []]
            fewer = []
            for _ in range(60):
                scores = rng.beta(0.7, 1, count) * 0.97 + 0.02
                right = (rng.uniform(size=count) < truth(scores)).astype(np.float64)
                fewer.append(min(right.sum(), count - right.sum()))
                new = rng.beta(0.7, 1, 20_000) * 0.97 + 0.02
                for kept, fit in zip(errors, (fit_platt, fit_isotonic), strict=True):
                    if (line := fit(scores, right)) is not None:
                        kept.append(float(np.abs(np.interp(new, *line) - truth(new)).mean()))
            means = " | ".join(f"{np.mean(kept):.4f}" for kept in errors)
            print(f"| {name} | {np.mean(fewer):.0f} | {means} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--photos", type=int, nargs="+", default=[20, 87])
    parser.add_argument("--maps", action="store_true")
    chosen = parser.parse_args()
    rng = np.random.default_rng(0)
    if chosen.maps:
        compare_maps(rng)
        return
    print("| photos | alike | harder | n + 1 | n + largest photo | block bootstrap | n + design effect |")
    print("|---|---|---|---|---|---|---|")
    for photos in chosen.photos:
        for rho, harder in SETTINGS:
            new = np.sort(draw(40_000, rho, harder, np.random.default_rng(1))[1])
            covered: dict[str, list[float]] = {}
            for _ in range(chosen.draws):
                photo, ratios = draw(photos, rho, harder, rng)
                by_photo = conformal_factor(ratios, photo, COVERAGE)
                factors = {
                    "plain": ranked(ratios, 1),
                    "largest": ranked(ratios, float(np.bincount(photo).max())),
                    "bootstrap": bootstrap(photo, ratios, rng),
                    "effect": math.inf if by_photo is None else by_photo,
                }
                for name, factor in factors.items():
                    share = math.nan if math.isinf(factor) else np.searchsorted(new, factor, side="right") / len(new)
                    covered.setdefault(name, []).append(float(share))
            cells = []
            for values in covered.values():
                without = float(np.isnan(values).mean())
                mean = "" if without == 1 else f"{100 * np.nanmean(values):.1f} ± {100 * np.nanstd(values):.1f} %"
                cells.append(mean + (f" (no factor: {100 * without:.0f} %)" if without else ""))
            print(f"| {photos} | {rho} | {harder} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
