"""Claims of papers and users about the rungs after the ladder, with published numbers, chapter by chapter."""

from dataclasses import dataclass

DIVERGED = "diverged"
"""Compared instead of a number: whether training succeeds at all."""


@dataclass(frozen=True)
class Claim:
    """A claim, with its published result, and the comparison that tests it.

    Args:
        words: the claim.
        published: the published number with its source.
        rung, before: the rungs to compare.
        number: key of the number to compare (see ``records.study.Row``), or ``DIVERGED``.
        verdict: expected verdict of the comparison if the claim holds.
    """

    words: str
    published: str
    rung: str
    before: str
    number: str
    verdict: str = "higher"


CHAPTER_CLAIMS: dict[str, tuple[Claim, ...]] = {
    "rare": (
        Claim(
            "Drawing photos with rare classes more often helps these",
            "no number for one-stage detectors; the baseline on LVIS (1908.03195)",
            "gfl-repeat",
            "gfl",
            "rare_AP",
        ),
        Claim(
            "so does drawing them by photos and objects",
            "half as much again as by photos, on LVIS (2305.08069)",
            "gfl-repeat-instance",
            "gfl",
            "rare_AP",
        ),
        Claim(
            "The equalized quality focal loss helps rare classes",
            "24.2 against 23.3 AP of all classes, YOLOX-S on LVIS (2201.02593)",
            "gfl-equalized",
            "gfl",
            "rare_AP",
        ),
        Claim("and all classes together", "as above", "gfl-equalized", "gfl", "AP"),
        Claim(
            "Repeat factors add to it",
            "both are used together there",
            "gfl-repeat-equalized",
            "gfl-equalized",
            "rare_AP",
        ),
        Claim(
            "A larger α helps rare classes",
            "no number",
            "gfl-focal-alpha",
            "gfl-focal",
            "rare_AP",
        ),
    ),
    "assign": (
        Claim(
            "Positives chosen by the predictions beat ATSS",
            "42.4 against 40.2 AP, with a head of its own (2108.07755; mmdetection's GFL)",
            "tood",
            "gfl",
            "AP",
        ),
        Claim("because the score follows the box", "no number (2108.07755)", "tood", "gfl", "rank_score"),
        Claim(
            "So do those of lowest cost with a soft label",
            "41.3 against 39.2 AP; 40.7 with TOOD's assignment (2212.07784)",
            "rtmdet",
            "gfl",
            "AP",
        ),
    ),
    "distil": (
        Claim("A larger detector is better", "no number for a larger head alone", "gfl-large", "gfl", "AP"),
        Claim(
            "and can teach a smaller one",
            "37.5 against 35.8 AP, ResNet-18 taught by ResNet-101 (2204.05957)",
            "gfl-taught",
            "gfl",
            "AP",
        ),
        Claim("above all to place its boxes", "no number (2102.12252)", "gfl-taught", "gfl", "AP75"),
    ),
    "boxes": (
        Claim(
            "IoU loss is worse than GIoU", "none is above IoU, say users (YOLOX#1115)", "gfl-iou", "gfl", "AP", "lower"
        ),
        Claim(
            "DIoU beats GIoU", "30.2, 30.0 and 30.1 AP with three of them, say users (DIoU#1)", "gfl-diou", "gfl", "AP"
        ),
        Claim("CIoU beats GIoU", "identical, say users (yolov3#1384)", "gfl-ciou", "gfl", "AP"),
        Claim("EIoU beats GIoU", "42.9 against 42.8 AP with CIoU (YOLOv6#89)", "gfl-eiou", "gfl", "AP"),
        Claim("SIoU beats GIoU", "43.1 against 42.8 AP with CIoU (YOLOv6#89)", "gfl-siou", "gfl", "AP"),
    ),
}
"""Group of the rungs -> its claims."""
