"""The photos of a page: which ones, embedded as JPEG, and what is drawn over them."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from focaldet.engine.draw import class_color, side_bands
from focaldet.report.matching import IN_CROWD, MATCH_IOU, UNMATCHED, ImageResult
from focaldet.report.run_files import Run, mapping

NUM_PHOTOS = 12
_LONG_SIDE_PX = 720
_MAX_PIXELS = 100_000_000  # a photo beyond this is not opened
_MAX_BOXES = 300  # drawn on one photo; the rest, of lower score, is counted in the caption
_SIDES = ("left", "top", "right", "bottom")


@dataclass(frozen=True)
class Box:
    """One box as the template draws it: pixels of the photo, a state for the style sheet, words for people."""

    x: float
    y: float
    width: float
    height: float
    class_index: int
    label: str
    state: str  # found, false, ignored | truth, missed
    words: str
    bands: str = ""

    @property
    def color(self) -> str:
        return class_color(self.class_index)

    @property
    def area(self) -> float:
        """The template draws large boxes first, so that a small one inside can be pointed at."""
        return self.width * self.height


@dataclass(frozen=True)
class Panel:
    """One drawing of a photo: the truth, or what one run predicted."""

    title: str
    words: str
    boxes: list[Box]


@dataclass(frozen=True)
class Photo:
    """One photo of the gallery with its panels; ``data`` is a JPEG data URI, or empty when the file cannot be read."""

    key: str
    name: str
    width: int
    height: int
    data: str
    panels: list[Panel]


def choose(results: Sequence[ImageResult], threshold: float) -> dict[str, list[ImageResult]]:
    """Heading -> photos: the worst, the typical and the best by their F1, four of each; all when there are few.

    Images without objects and without boxes are perfect and show nothing, so they are not chosen. Among equals, the
    worst are those that miss the most and the best those that hold the most.
    """
    shown = [r for r in results if len(r.gt_labels) or r.counts(threshold)[1]]
    ranked = sorted(
        shown, key=lambda r: (r.f1(threshold), -r.counts(threshold)[2] if r.f1(threshold) < 1 else len(r.gt_labels))
    )
    if len(ranked) <= NUM_PHOTOS:
        return {"All photos, worst first": ranked} if ranked else {}
    each = NUM_PHOTOS // 3
    middle = (len(ranked) - each) // 2
    return {"Worst": ranked[:each], "Typical": ranked[middle : middle + each], "Best": ranked[: -each - 1 : -1]}


def truth_panel(result: ImageResult, names: Sequence[str], missed: set[int] | None) -> Panel:
    """The labelled boxes; ``missed`` are marked (None when several runs are compared)."""
    boxes = []
    for g, (corners, label) in enumerate(zip(result.gt_xyxy, result.gt_labels, strict=True)):
        is_missed = missed is not None and g in missed
        words = f"{_name(names, label)}, labelled" + ("; missed" if is_missed else "")
        boxes.append(_box(corners, int(label), names, "missed" if is_missed else "truth", words))
    return Panel("Truth", f"{len(boxes)} object{'s' * (len(boxes) != 1)}", boxes)


def prediction_panel(title: str, result: ImageResult, names: Sequence[str], threshold: float) -> Panel:
    """The boxes that score at least ``threshold``, each with its score, its IoU and its deviations in words."""
    boxes = []
    for i in np.flatnonzero(result.scores >= threshold)[:_MAX_BOXES]:
        name, iou, match = _name(names, result.labels[i]), result.iou[i], result.matched_gt[i]
        if match == UNMATCHED:
            state = "false"
            verdict = (
                f"false, the object was found already (IoU {iou:.2f})"
                if iou >= MATCH_IOU
                else (f"false, the largest IoU with a labelled {name} is {iou:.2f}")
            )
        elif match == IN_CROWD:
            state, verdict = "ignored", "inside a crowd, not counted"
        else:
            state, verdict = "found", f"IoU with truth {iou:.2f}"
        words, bands, std = f"{name}, score {result.scores[i]:.2f}; {verdict}", "", result.side_std_px[i]
        if np.isfinite(std).all():
            words += "; deviations " + ", ".join(f"{s} {v:.1f}" for s, v in zip(_SIDES, std, strict=True)) + " px"
            bands = "".join(
                f"M{a:.1f} {b:.1f}H{c:.1f}V{d:.1f}H{a:.1f}Z" for a, b, c, d in side_bands(result.boxes_xyxy[i], std)
            )
        boxes.append(_box(result.boxes_xyxy[i], int(result.labels[i]), names, state, words, bands))
    found, false, missed = result.counts(threshold)
    return Panel(title, f"{found} found, {missed} missed, {false} false", boxes)


def missed_objects(result: ImageResult, threshold: float) -> set[int]:
    """Indices of the objects that no box of at least this score found."""
    return set(range(len(result.gt_labels))) - set(result.matched_gt[result.scores >= threshold].tolist())


def photo(key: str, run: Run, result: ImageResult, panels: list[Panel]) -> Photo:
    root = mapping(run.truth.get("info")).get("root")
    path = Path(root if isinstance(root, str) else run.path) / result.file_name
    return Photo(key, Path(result.file_name).name, result.width, result.height, embed_jpeg(path), panels)


def embed_jpeg(path: Path) -> str:
    """The photo as a data URI of a JPEG of at most 720 px, or an empty string when it cannot be read."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > _MAX_PIXELS:
                return ""
            image.draft("RGB", (_LONG_SIDE_PX, _LONG_SIDE_PX))  # a large JPEG is decoded at a fraction of its size
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return ""
    upright.thumbnail((_LONG_SIDE_PX, _LONG_SIDE_PX))
    out = io.BytesIO()
    upright.save(out, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if label < len(names) else f"class {label}"


def _box(corners: np.ndarray, label: int, names: Sequence[str], state: str, words: str, bands: str = "") -> Box:
    x1, y1, x2, y2 = (round(float(v), 1) for v in corners)
    size = (round(max(x2 - x1, 0), 1), round(max(y2 - y1, 0), 1))
    return Box(x1, y1, *size, label, _name(names, label), state, words, bands)
