"""Is the file what the run is? Both look at the same photos, at sizes that the graph was not traced with."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from focaldet.checks import InputError, one_line
from focaldet.engine.detector import Detector
from focaldet.files import read_json
from focaldet.models.postprocess import Candidates, PostProcess
from focaldet.photos.images import read_photo
from focaldet.photos.resize import Seen as Pixels
from focaldet.schema import check_schema
from focaldet.structures import Detections

MAX_BOX_DIFFERENCE_PX = 0.05
"""That a side of a box may differ by, in pixels of what the network sees."""

MAX_SCORE_DIFFERENCE = 1e-3
"""That a score may differ by."""

IOU_SLACK = 1e-2
"""Two boxes that overlap by so much more or less than the threshold may both stay, or not."""

NUM_PHOTOS = 4

SMALLER = 0.8
"""Of the second size, which is also turned by a quarter."""

SMALLEST_PX = 60
"""Longer side of one photo more: so small that levels of the pyramid are one location."""

MORE_CANDIDATES = 10
"""Times as many of a level are known here: which is the last of the best, no two programs agree on."""

Reader = Callable[[NDArray[Any]], Detections]
"""One image ``(1, H, W, 3)`` to the detections of the file in it, in pixels of the image."""


class TruthImage(TypedDict):
    """A photo in ``truth.json``."""

    file_name: str


class Truth(TypedDict):
    """What is looked at in ``truth.json``."""

    images: list[TruthImage]


def check_photos(run: Path) -> list[NDArray[np.uint8]]:
    """A few of the photos that the run was measured on, or, when they are not at hand, two that scikit-learn brings."""
    found: list[NDArray[np.uint8]] = []
    if (run / "truth.json").exists():
        truth = read_json(run / "truth.json")
        check_schema(str(run / "truth.json"), truth, Truth)
        for image in truth["images"]:
            if len(found) < NUM_PHOTOS:
                with suppress(InputError):  # the photos have gone, or changed
                    found.append(read_photo(Path(image["file_name"])))
    if not found:
        from sklearn.datasets import load_sample_images

        found = [np.asarray(photo) for photo in load_sample_images().images]
    return found


def check_images(photos: Sequence[NDArray[np.uint8]], detector: Detector) -> list[Pixels]:
    """Each photo as the network sees it, and turned and smaller, and one very small."""
    resize, size = detector.spec.resize, detector.spec.size
    turned = [np.ascontiguousarray(np.rot90(photo)) for photo in photos]
    images = [resize(photo, size) for photo in photos] + [resize(photo, round(SMALLER * size)) for photo in turned]
    return [*images, resize(photos[0], SMALLEST_PX)]


@dataclass(frozen=True)
class Agreement:
    """Of a file with the run.

    Args:
        boxes: how many the file finds.
        px: largest difference of a side, or of its deviation.
        score: largest difference of a score.
        sizes: of the images, (width, height) px.
    """

    boxes: int
    px: float
    score: float
    sizes: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        sizes = " and ".join(f"{width} x {height}" for width, height in sorted(set(self.sizes), reverse=True))
        return (
            f"compared with the run: {self.boxes} boxes in {len(self.sizes)} photos of {sizes} px, "
            f"within {self.px:.1g} px and {self.score:.1g} in score"
        )


def check(read: Reader, detector: Detector, images: Sequence[Pixels]) -> Agreement:
    """Compare the detections of a file with those of the run.

    Each must be a candidate of the run, and they must be what its suppression may leave: which one stays of two that
    score alike to six digits, no two programs agree on.

    Args:
        read: the file.
        detector: the run.
        images: as the network sees them.

    Raises:
        InputError: they differ by too much.
    """
    sizes = tuple((image.shape[1], image.shape[0]) for image in images)
    worst_px = worst_score = 0.0
    boxes, faults = 0, []
    for image, (width, height) in zip(images, sizes, strict=True):
        try:
            found = read(image[None])
        except Exception as error:  # each runtime has its own
            raise _mismatch(f"it cannot be run on {width} x {height} px ({one_line(error)})") from error
        px, score = largest_difference(found, run_candidates(detector, image, slack=True))
        worst_px, worst_score, boxes = max(worst_px, px), max(worst_score, score), boxes + len(found)
        faults.append(fault_of_choice(found, run_candidates(detector, image), detector))
    if not (worst_px <= MAX_BOX_DIFFERENCE_PX and worst_score <= MAX_SCORE_DIFFERENCE):
        raise _mismatch(
            f"boxes by {worst_px:.3g} px (at most {MAX_BOX_DIFFERENCE_PX} allowed), scores by {worst_score:.2g} "
            f"(at most {MAX_SCORE_DIFFERENCE})"
        )
    for fault in filter(None, faults):
        raise _mismatch(fault)
    return Agreement(boxes, worst_px, worst_score, sizes)


def run_candidates(detector: Detector, image: Pixels, *, slack: bool = False) -> Candidates:
    """What the run's suppression chooses from, in pixels of the image.

    Args:
        slack: also what is hardly below the threshold, or hardly not among the best of its level.
    """
    postprocess = detector.postprocess
    if slack:
        config = postprocess.config
        config = replace(
            config,
            score_threshold=max(config.score_threshold - MAX_SCORE_DIFFERENCE, 0),
            topk_candidates=MORE_CANDIDATES * config.topk_candidates,
        )
        postprocess = PostProcess(detector.method, detector.net.strides, config)
    with torch.no_grad():
        outputs = detector.net(torch.from_numpy(image.copy()).permute(2, 0, 1)[None].contiguous())
    size = (image.shape[0], image.shape[1])
    return postprocess.candidates(outputs, 0, size, postprocess.locations(outputs))


def largest_difference(found: Detections, candidates: Candidates) -> tuple[float, float]:
    """Of a box's sides, their deviations included, and of its score: from the candidate of its class most like it.

    Of the box alone many may be: those that the image cuts to its whole.
    """
    if not len(found):
        return 0.0, 0.0
    sound = bool(_sides(found).isfinite().all() and found.scores.isfinite().all())
    if not sound or not len(candidates.scores):
        return float("inf"), float("inf")
    px = torch.cdist(_sides(found), _sides(candidates), p=torch.inf)
    px[found.labels[:, None] != candidates.labels] = torch.inf
    score = (found.scores[:, None] - candidates.scores).abs()
    alike = torch.maximum(px / MAX_BOX_DIFFERENCE_PX, score / MAX_SCORE_DIFFERENCE).argmin(dim=1, keepdim=True)
    return float(px.gather(1, alike).max()), float(score.gather(1, alike).max())


def fault_of_choice(found: Detections, candidates: Candidates, detector: Detector) -> str | None:
    """What is wrong with a choice of candidates as the outcome of the run's suppression; ``None``: nothing."""
    config = detector.postprocess.config
    iou = 1.0 if config.nms_iou is None else config.nms_iou
    together = _overlaps(found, found).fill_diagonal_(0)
    if bool((together > iou + IOU_SLACK).any()):
        return "two boxes stay of which one should go"
    full = len(found) == config.max_detections
    least = float(found.scores[-1]) if full else config.score_threshold
    # A box without area overlaps nothing, not even itself.
    itself = torch.cdist(candidates.boxes_xyxy, found.boxes_xyxy, p=torch.inf) <= MAX_BOX_DIFFERENCE_PX
    itself &= candidates.labels[:, None] == found.labels
    over = itself | (_overlaps(candidates, found) > iou - IOU_SLACK)
    better = found.scores >= candidates.scores[:, None] - MAX_SCORE_DIFFERENCE
    missing = (candidates.scores > least + MAX_SCORE_DIFFERENCE) & ~(over & better).any(dim=1)
    return f"{int(missing.sum())} boxes are missing" if bool(missing.any()) else None


def _overlaps(a: Detections | Candidates, b: Detections | Candidates) -> torch.Tensor:
    """IoU of each pair of a class, 0 of different classes and of boxes without area."""
    return torch.where(a.labels[:, None] == b.labels, box_iou(a.boxes_xyxy, b.boxes_xyxy), 0.0).nan_to_num(0.0)


def _sides(found: Detections | Candidates) -> torch.Tensor:
    return found.boxes_xyxy if found.side_std_px is None else torch.cat([found.boxes_xyxy, found.side_std_px], dim=1)


def _mismatch(difference: str) -> InputError:
    return InputError(
        f"the exported network differs from the run: {difference}; nothing was written. This is a fault of focaldet: "
        "please report it"
    )
