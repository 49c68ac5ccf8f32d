"""Is the file what the run is? Both look at the same photos, at two sizes that the graph was not traced with."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from focaldet.checks import InputError
from focaldet.engine.predict import Detector
from focaldet.files import read_json
from focaldet.models.postprocess import Candidates
from focaldet.photos.images import read_photo
from focaldet.photos.resize import Seen as Pixels
from focaldet.structures import Detections

MOST_BOX_PX = 0.05
"""That a side of a box may differ by, in pixels of what the network sees."""

MOST_SCORE = 1e-3
"""That a score may differ by."""

IOU_SLACK = 1e-2
"""Two boxes that overlap by so much more or less than the threshold may both stay, or not."""

NUM_PHOTOS = 4

SMALLER = 0.8
"""Of the second size, which is also turned by a quarter."""

Reader = Callable[[NDArray[Any]], Detections]
"""One image ``(1, H, W, 3)`` to the detections of the file in it, in pixels of the image."""


def check_photos(run: Path) -> list[NDArray[np.uint8]]:
    """A few of the photos that the run was measured on, or, when they are not at hand, two that scikit-learn brings."""
    found: list[NDArray[np.uint8]] = []
    if (run / "truth.json").exists():
        for image in read_json(run / "truth.json")["images"]:
            file = Path(image["file_name"])
            if len(found) < NUM_PHOTOS and file.is_file():
                found.append(read_photo(file))
    if not found:
        from sklearn.datasets import load_sample_images

        found = [np.asarray(photo) for photo in load_sample_images().images]
    return found


def two_sizes(photos: Sequence[NDArray[np.uint8]], detector: Detector) -> list[Pixels]:
    """Each photo as the network sees it, and turned and smaller."""
    resize, size = detector.spec.resize, detector.spec.size
    turned = [np.ascontiguousarray(np.rot90(photo)) for photo in photos]
    return [resize(photo, size) for photo in photos] + [resize(photo, round(SMALLER * size)) for photo in turned]


def check(read: Reader, detector: Detector, images: Sequence[Pixels]) -> str:
    """Compare the detections of a file with those of the run.

    Each must be a candidate of the run, and they must be what its suppression may leave: which one stays of two that
    score alike to six digits, no two programs agree on.

    Args:
        read: the file.
        detector: the run.
        images: as the network sees them.

    Returns:
        The difference, in words.

    Raises:
        InputError: it is too large.
    """
    worst_px = worst_score = 0.0
    count = 0
    for image in images:
        found = read(image[None])
        candidates = run_candidates(detector, image)
        px, score = largest_difference(found, candidates)
        worst_px, worst_score, count = max(worst_px, px), max(worst_score, score), count + len(found)
        if px <= MOST_BOX_PX and score <= MOST_SCORE and (fault := fault_of_choice(found, candidates, detector)):
            raise _mismatch(fault)
    if not (worst_px <= MOST_BOX_PX and worst_score <= MOST_SCORE):
        raise _mismatch(
            f"boxes by {worst_px:.3g} px (at most {MOST_BOX_PX} allowed), scores by {worst_score:.2g} (at most "
            f"{MOST_SCORE})"
        )
    sizes = sorted({f"{image.shape[1]} x {image.shape[0]}" for image in images})
    where = f"{len(images)} photos of {' and '.join(sizes)} px"
    if not count:
        return f"the run finds nothing in {where}, and so does the file"
    return f"{count} boxes in {where}: within {worst_px:.2g} px and {worst_score:.1g} in score of the run's"


def run_candidates(detector: Detector, image: Pixels) -> Candidates:
    """What the run's suppression chooses from, in pixels of the image."""
    reader = detector.postprocess
    with torch.no_grad():
        outputs = detector.net(torch.from_numpy(image.copy()).permute(2, 0, 1)[None].contiguous())
    return reader.candidates(outputs, 0, (image.shape[0], image.shape[1]), reader.sites(outputs))


def largest_difference(found: Detections, candidates: Candidates) -> tuple[float, float]:
    """Of a box's sides, their deviations included, and of its score, from the nearest candidate of its class."""
    if not len(found):
        return 0.0, 0.0
    theirs, ours = _sides(found), _sides(candidates)
    px = torch.cdist(theirs, ours, p=torch.inf)
    px[found.labels[:, None] != candidates.labels] = torch.inf
    if not px.numel():
        return float("inf"), float("inf")
    nearest = px.min(dim=1)
    score = (found.scores - candidates.scores[nearest.indices]).abs()
    return float(nearest.values.max()), float(score.max())


def fault_of_choice(found: Detections, candidates: Candidates, detector: Detector) -> str | None:
    """What is wrong with a choice of candidates as the outcome of the run's suppression; ``None``: nothing."""
    reading = detector.postprocess.reading
    iou = 1.0 if reading.nms_iou is None else reading.nms_iou
    together = _overlaps(found, found).fill_diagonal_(0)
    if bool((together > iou + IOU_SLACK).any()):
        return "two boxes stay of which one should go"
    full = len(found) == reading.max_detections
    least = float(found.scores[-1]) if full else reading.score_threshold
    over = _overlaps(candidates, found) > iou - IOU_SLACK
    better = found.scores >= candidates.scores[:, None] - MOST_SCORE
    missing = (candidates.scores > least + MOST_SCORE) & ~(over & better).any(dim=1)
    return f"{int(missing.sum())} boxes are missing" if bool(missing.any()) else None


def _overlaps(a: Detections | Candidates, b: Detections | Candidates) -> torch.Tensor:
    """IoU of each pair of a class, 0 of different classes."""
    return torch.where(a.labels[:, None] == b.labels, box_iou(a.boxes_xyxy, b.boxes_xyxy), 0.0)


def _sides(found: Detections | Candidates) -> torch.Tensor:
    return found.boxes_xyxy if found.side_std_px is None else torch.cat([found.boxes_xyxy, found.side_std_px], dim=1)


def _mismatch(difference: str) -> InputError:
    return InputError(
        f"the exported network differs from the run: {difference}; nothing was written. This is a fault of focaldet: "
        "please report it"
    )
