"""The chapters of a study's page after the ladder: for each claim, the published result and the measured one."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from focaldet.records.study_claims import CHAPTER_CLAIMS, Claim
from focaldet.records.study_files import Rung, StudyFiles

TITLES = {
    "rare": (
        "Rare classes",
        "Repeat factors draw photos with rare classes more often; the equalized loss gives each "
        "class its own exponent; α weighs the objects of a class.",
    ),
    "assign": ("Which locations learn", "Instead of geometry, the predictions choose the positives."),
    "distil": ("A teacher", "A larger detector is trained, and teaches the small one its distributions."),
    "boxes": ("Six losses of boxes", "The same detector with each loss of the IoU family; GFL's own is GIoU."),
}
"""Group of the rungs -> title and introduction."""

VERDICTS = {"within the spread": "within noise", "unknown": "one {unit}"}
"""Verdicts of a comparison that neither confirm nor contradict a claim."""


@dataclass(frozen=True)
class Tested:
    """A claim with its test.

    Args:
        here: the means with their spread, and the difference with its interval.
        verdict: confirmed, contradicted, within noise, one seed (or fold), or ``–`` if it was not measured.
    """

    claim: Claim
    here: str
    verdict: str


def chapter(files: StudyFiles, name: str) -> dict[str, Any] | None:
    """One chapter; ``None`` if none of its rungs has a result."""
    own = files.group(name)
    if not any(rung["AP"] for rung in own):
        return None
    bases = [rung for rung in files.rungs if rung.name in {each.before for each in own} and rung not in own]
    rungs = [*bases, *own]
    return {
        "words": TITLES[name][1],
        "measured": [(rung, files.comparison(rung.name) if rung in own else {}) for rung in rungs],
        "tested": [test(files, claim) for claim in CHAPTER_CLAIMS[name]],
        "without_gain": [rung.title for rung in own if not _gains(files, rung)] if files.num_seeds > 1 else [],
    }


def test(files: StudyFiles, claim: Claim) -> Tested:
    """The study's result for a claim."""
    rung, before = files.rung(claim.rung), files.rung(claim.before)
    found = files.comparison(claim.rung, claim.number)
    if rung is None or before is None or found.get("before") != claim.before:
        return Tested(claim, "not measured", "–")
    here = f"{_value(rung, claim)} against {_value(before, claim)}"
    verdict = str(found.get("verdict"))
    if isinstance(found.get("low"), float) and isinstance(found.get("high"), float):
        here += f": {found['difference']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"
    words = VERDICTS.get(verdict, "confirmed" if verdict == claim.verdict else "contradicted")
    return Tested(claim, here, words.format(unit=files.unit))


def _gains(files: StudyFiles, rung: Rung) -> bool:
    """Whether the rung's AP, or its AP of the rarest class, is higher than that of the rung before."""
    return any(files.comparison(rung.name, key).get("verdict") == "higher" for key in ("AP", "rare_AP"))


def _value(rung: Rung, claim: Claim) -> str:
    return str(rung[claim.number] or "–")


AFTER_LADDER = {name: (title, partial(chapter, name=name)) for name, (title, _) in TITLES.items()}
"""Name -> title, and the function that builds the chapter."""
