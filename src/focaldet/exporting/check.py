"""Compare an exported file with its run, on photos of sizes that the graph was not traced with."""

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
from focaldet.exporting.network_inputs import photo_to_check
from focaldet.files import read_json
from focaldet.models.postprocess import Candidates, PostProcess
from focaldet.photos.resize import Pixels
from focaldet.schema import check_schema
from focaldet.structures import Detections

MAX_BOX_DIFFERENCE_PX = 0.05
"""Largest accepted difference of a box side, in pixels of the network input."""

MAX_SCORE_DIFFERENCE = 1e-3
"""Largest accepted difference of a score."""

IOU_SLACK = 1e-2
"""Tolerance of the NMS threshold: at an IoU this close to it, either outcome is accepted."""

NUM_PHOTOS = 4
"""Number of photos from the run's evaluation to compare on."""

SMALLER = 0.8
"""Scale of the second size, which is also rotated by 90°."""

SMALLEST_PX = 60
"""Longer side of one more photo, small enough that some pyramid levels have a single location."""

MORE_CANDIDATES = 10
"""Factor on the number of candidates per level, since programs disagree on which candidate is the last one."""

Reader = Callable[[NDArray[Any]], Detections]
"""Runs the file on one image ``(1, H, W, 3)``; returns detections in pixels of the image."""


class TruthImage(TypedDict):
    """An entry of ``images`` in ``truth.json``."""

    file_name: str


class Truth(TypedDict):
    """The part of ``truth.json`` used here."""

    images: list[TruthImage]


def check_photos(run: Path, detector: Detector) -> list[NDArray[np.uint8]]:
    """A few of the photos that the run was evaluated on, or windows of them; if none can be read, two photos from
    scikit-learn.
    """
    found: list[NDArray[np.uint8]] = []
    if (run / "truth.json").exists():
        truth = read_json(run / "truth.json")
        check_schema(str(run / "truth.json"), truth, Truth)
        for image in truth["images"]:
            if len(found) < NUM_PHOTOS:
                with suppress(InputError):  # the photo was deleted or changed
                    found.append(photo_to_check(Path(image["file_name"]), detector))
    if not found:
        from sklearn.datasets import load_sample_images

        found = [np.asarray(photo) for photo in load_sample_images().images]
    return found


def check_images(photos: Sequence[NDArray[np.uint8]], detector: Detector) -> list[Pixels]:
    """Network inputs: each photo, each photo rotated and smaller, and one very small photo."""
    resize, size = detector.spec.resize, detector.spec.size
    turned = [np.ascontiguousarray(np.rot90(photo)) for photo in photos]
    images = [resize(photo, size) for photo in photos] + [resize(photo, round(SMALLER * size)) for photo in turned]
    return [*images, resize(photos[0], SMALLEST_PX)]


@dataclass(frozen=True)
class Agreement:
    """Result of a comparison.

    Args:
        boxes: number of boxes detected by the file.
        px: largest difference of a box side or its standard deviation, in pixels.
        score: largest difference of a score.
        sizes: (width, height) of the images, px.
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

    Each detection must be a candidate of the run, and together they must be a possible result of its NMS. The exact
    result is not required: if two scores agree to six digits, no two programs agree on which box remains.

    Args:
        read: runs the file.
        detector: the run.
        images: network inputs.

    Raises:
        InputError: the detections differ too much.
    """
    sizes = tuple((image.shape[1], image.shape[0]) for image in images)
    worst_px = worst_score = 0.0
    boxes, faults = 0, []
    for image, (width, height) in zip(images, sizes, strict=True):
        try:
            found = read(image[None])
        except Exception as error:  # runtimes raise different classes
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
    """The run's candidates for NMS, in pixels of the image.

    Args:
        slack: include candidates slightly below the score threshold or the top candidates of a level.
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
    """Largest difference of box sides (with their standard deviations) and of scores from the most similar candidates.

    A candidate must have the same class. Its score counts too, because many boxes may be clipped to the whole image and
    become equal.
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
    """Why the detections are not a possible result of the run's NMS on its candidates, or ``None``."""
    config = detector.postprocess.config
    iou = 1.0 if config.nms_iou is None else config.nms_iou
    together = _overlaps(found, found).fill_diagonal_(0)
    if bool((together > iou + IOU_SLACK).any()):
        return "it keeps a box that NMS should drop"
    full = len(found) == config.max_detections
    least = float(found.scores[-1]) if full else config.score_threshold
    # A box without area has IoU 0 even with itself.
    itself = torch.cdist(candidates.boxes_xyxy, found.boxes_xyxy, p=torch.inf) <= MAX_BOX_DIFFERENCE_PX
    itself &= candidates.labels[:, None] == found.labels
    over = itself | (_overlaps(candidates, found) > iou - IOU_SLACK)
    better = found.scores >= candidates.scores[:, None] - MAX_SCORE_DIFFERENCE
    missing = (candidates.scores > least + MAX_SCORE_DIFFERENCE) & ~(over & better).any(dim=1)
    return f"{int(missing.sum())} boxes are missing" if bool(missing.any()) else None


def _overlaps(a: Detections | Candidates, b: Detections | Candidates) -> torch.Tensor:
    """IoU of each pair of the same class; 0 for different classes and for boxes without area."""
    return torch.where(a.labels[:, None] == b.labels, box_iou(a.boxes_xyxy, b.boxes_xyxy), 0.0).nan_to_num(0.0)


def _sides(found: Detections | Candidates) -> torch.Tensor:
    return found.boxes_xyxy if found.side_std_px is None else torch.cat([found.boxes_xyxy, found.side_std_px], dim=1)


def _mismatch(difference: str) -> InputError:
    return InputError(
        f"the exported network differs from the run: {difference}; nothing was written. This is a bug in focaldet: "
        "please report it"
    )
