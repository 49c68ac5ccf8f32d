"""The chapters after the ladder: rungs that each change one thing compared with GFL, by question.

``--rungs`` accepts the name of a chapter for all its rungs and the rung that they are compared with.
"""

from typing import Any

from focaldet.records.study import Group
from focaldet.study.rung import FROM_RUNG, Rung

GFL: dict[str, Any] = {"method": "gfl", "class_loss": "quality_focal"}

LARGE = "gfl-large"
"""Rung whose runs are the teachers of ``gfl-taught``."""


def _rung(
    group: Group, name: str, title: str, changed: str, before: str = "gfl", base: dict[str, Any] = GFL, **changes: Any
) -> Rung:
    return Rung(name=name, title=f"GFL, {title}", changes=base | changes, before=before, changed=changed, group=group)


FOCAL = GFL | {"class_loss": "focal"}

AFTER = (
    _rung("rare", "gfl-repeat", "repeat factors", "photos with rare classes are drawn more often", repeat="auto"),
    _rung("rare", "gfl-repeat-instance", "by instance", "the same, by photos and objects", repeat="instance"),
    _rung(
        "rare",
        "gfl-equalized",
        "equalized quality",
        "the exponent of each class follows its gradients",
        class_loss="equalized_quality",
    ),
    _rung(
        "rare",
        "gfl-repeat-equalized",
        "both",
        "repeat factors in addition to the equalized loss",
        "gfl-equalized",
        class_loss="equalized_quality",
        repeat="auto",
    ),
    _rung("rare", "gfl-focal", "focal loss", "focal loss, whose target is 1 whatever the box", base=FOCAL),
    _rung("rare", "gfl-focal-alpha", "α by class", "rare classes have a larger α", "gfl-focal", FOCAL, alpha="inverse"),
    *(
        Rung(name=name, title=title, changes=GFL | {"method": name}, before="gfl", changed=changed, group="assign")
        for name, title, changed in (
            ("tood", "TOOD", "predictions choose the positives and set their targets"),
            ("rtmdet", "RTMDet", "predictions choose the positives by a soft cost, and more of them for better boxes"),
        )
    ),
    _rung("distil", LARGE, "256 channels", "a larger pyramid and head", channels=256, head_depth=4),
    _rung(
        "distil", "gfl-taught", "taught", "the larger detector of the same seed teaches it", teacher=FROM_RUNG + LARGE
    ),
    *(
        _rung("boxes", f"gfl-{loss}", words, f"{words} loss instead of GIoU", box_loss=loss)
        for loss, words in (("iou", "IoU"), ("diou", "DIoU"), ("ciou", "CIoU"), ("eiou", "EIoU"), ("siou", "SIoU"))
    ),
)
"""All rungs of the chapters, in order."""

CHAPTERS = tuple(dict.fromkeys(rung.group for rung in AFTER))
