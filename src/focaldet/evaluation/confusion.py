"""Confusion matrix: the classes that the detector predicts for the objects of each class.

Each object is in one cell: its own class if a box matches it, else the class of the best box on it, else missed. Each
box is also in one cell: it matches an object or is a false alarm.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from focaldet.evaluation.matching import UNMATCHED, Floats, ImageResult

NO_CLASS = -1
"""As predicted class, a missed object; as labelled class, a false alarm."""


def confusion(results: Sequence[ImageResult], least: Sequence[float] | Floats) -> list[list[int]]:
    """(labelled class, predicted class, count) of all cells that are not empty.

    Args:
        least: ``(C,)`` score threshold of each class.
    """
    cells: Counter[tuple[int, int]] = Counter()
    least = np.asarray(least, np.float64)
    for result in results:
        kept = result.scores >= least[result.labels]
        free = np.ones(len(result.gt_labels), bool)
        found = result.matched_gt[kept & (result.matched_gt >= 0)]
        free[found] = False
        cells.update((label, label) for label in result.gt_labels[found].tolist())
        for box in np.flatnonzero(kept & (result.matched_gt == UNMATCHED)).tolist():  # best first
            taken = int(result.confused_with[box])
            lies_on_free = taken != UNMATCHED and bool(free[taken])
            cells[int(result.gt_labels[taken]) if lies_on_free else NO_CLASS, int(result.labels[box])] += 1
            if lies_on_free:
                free[taken] = False
        cells.update((label, NO_CLASS) for label in result.gt_labels[free].tolist())
    return [[labelled, predicted, count] for (labelled, predicted), count in sorted(cells.items())]
