"""The rungs from cross entropy to the Generalized Focal Loss; each changes one thing compared with the previous one.

The rungs after them are in ``chapters``.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from focaldet.checks import InputError, near_name
from focaldet.records.study import Group
from focaldet.study.chapters import AFTER, CHAPTERS
from focaldet.study.rung import Rung, teacher_rung

CHOSEN_HERE = ("method", "class_loss", "teacher", "resume", "profile", "devices", "nodes")
"""Options of ``focaldet train`` that the study sets itself; each rung trains in one process."""

LADDER = (
    Rung(
        name="retinanet-bce-no-prior",
        title="RetinaNet, cross entropy, no prior",
        changes={"method": "retinanet", "class_loss": "bce", "prior_prob": 0.5},
        before=None,
        changed="the starting point",
    ),
    Rung(
        name="retinanet-bce",
        title="RetinaNet, cross entropy",
        changes={"method": "retinanet", "class_loss": "bce"},
        before="retinanet-bce-no-prior",
        changed="prior: the class bias starts at a low probability",
    ),
    Rung(
        name="retinanet-focal",
        title="RetinaNet, focal loss",
        changes={"method": "retinanet", "class_loss": "focal"},
        before="retinanet-bce",
        changed="focal loss instead of cross entropy",
    ),
    Rung(
        name="fcos",
        title="FCOS",
        changes={"method": "fcos", "class_loss": "focal"},
        before="retinanet-focal",
        changed="points instead of nine anchors; centerness",
    ),
    Rung(
        name="atss",
        title="ATSS, centerness",
        changes={"method": "atss", "class_loss": "focal"},
        before="fcos",
        changed="positives chosen by the statistics of their IoU",
    ),
    Rung(
        name="atss-qfl",
        title="ATSS, quality focal loss",
        changes={"method": "atss", "class_loss": "quality_focal"},
        before="atss",
        changed="one score for class and quality instead of centerness",
    ),
    Rung(
        name="gfl",
        title="GFL",
        changes={"method": "gfl", "class_loss": "quality_focal"},
        before="atss-qfl",
        changed="sides are distributions, trained with distribution focal loss",
    ),
    Rung(
        name="gflv2",
        title="GFLv2",
        changes={"method": "gflv2", "class_loss": "quality_focal"},
        before="gfl",
        changed="the shape of the distributions predicts the quality",
    ),
)
"""The rungs of the ladder, in order."""

STORY = "story"
"""Name of the ladder among the chapters."""

RUNGS = {rung.name: rung for rung in (*LADDER, *AFTER)}
"""Every rung by its name, in order."""

PAPER_ALPHA = {0.0: 0.75, 0.1: 0.75, 0.2: 0.75, 0.5: 0.5, 1.0: 0.25, 2.0: 0.25, 5.0: 0.25}
"""gamma -> best alpha for it (focal loss paper, table 1b). A larger gamma down-weights the easy background more, so the
objects need less extra weight."""


def choose_rungs(
    names: Sequence[str] | None = None,
    *,
    gammas: Sequence[float] = (),
    betas: Sequence[float] = (),
    bins: Sequence[int] = (),
    settings: dict[str, Any],
) -> list[Rung]:
    """Choose the rungs of a study, in the order of the ladder and the chapters.

    Args:
        names: rungs and chapters; a chapter includes the rungs that its own are compared with. ``None`` for the ladder.
        gammas: add RetinaNet with focal loss for each gamma, with the best alpha from the paper.
        betas: add ATSS with quality focal loss for each beta.
        bins: add GFL for each number of bins per side.
        settings: options shared by all rungs. An extra rung that equals a rung of the ladder is left out.

    Raises:
        InputError: there is no rung or chapter with that name.

    >>> rungs = choose_rungs(["atss", "gfl"], bins=[17, 9], settings={"num_bins": 17})
    >>> [(rung.name, rung.before) for rung in rungs]
    [('atss', None), ('gfl', 'atss'), ('gfl-bins-9', 'gfl')]
    """
    known = {rung.name: rung for rung in LADDER}
    wanted = {name for given in (names or [STORY]) for name in _named(given)}
    chosen = {name: _after_chosen(rung, wanted) for name, rung in RUNGS.items() if name in wanted}
    extra = [_gamma_rung(gamma) for gamma in gammas]
    extra += [_extra(known["atss-qfl"], "beta", "beta", beta, f"beta {beta:g}") for beta in betas]
    extra += [_extra(known["gfl"], "bins", "num_bins", count, f"{count} bins") for count in bins]
    for rung in extra:
        parent = chosen.get(str(rung.before))
        if parent is None:
            chosen[rung.name] = replace(rung, before=None)
        elif settings | rung.changes != settings | parent.changes:
            chosen[rung.name] = rung
    return list(chosen.values())


def _named(name: str) -> set[str]:
    """Names of the rungs that a name in ``--rungs`` stands for."""
    if name == STORY:
        return {rung.name for rung in LADDER}
    if name in CHAPTERS:
        return {each for rung in AFTER if rung.group == name for each in (rung.name, str(rung.before))}
    if name not in RUNGS:
        raise InputError(f"--rungs: unknown rung {name!r}; {near_name(name, (STORY, *CHAPTERS, *RUNGS))}")
    return {name, *filter(None, [teacher_rung(RUNGS[name].changes)])}


def _after_chosen(rung: Rung, names: Collection[str]) -> Rung:
    """The rung, compared with the nearest earlier rung among the chosen ones."""
    before, changed = rung.before, [rung.changed]
    while before is not None and before not in names:
        changed.insert(0, RUNGS[before].changed)
        before = RUNGS[before].before
    if before is None:
        return replace(rung, before=None, changed="the starting point")
    return rung if before == rung.before else replace(rung, before=before, changed="; ".join(changed))


def _gamma_rung(gamma: float) -> Rung:
    alpha = PAPER_ALPHA[min(PAPER_ALPHA, key=lambda known: abs(known - gamma))]
    parent = LADDER[2]
    return Rung(
        name=f"{parent.name}-gamma-{gamma:g}",
        title=f"{parent.title}, gamma {gamma:g}",
        changes=parent.changes | {"gamma": gamma, "alpha": alpha},
        before=parent.name,
        changed=f"gamma {gamma:g}, alpha {alpha:g}",
        group="gamma",
    )


def _extra(parent: Rung, group: Group, option: str, value: float, words: str) -> Rung:
    return Rung(
        name=f"{parent.name}-{group}-{value:g}",
        title=f"{parent.title}, {words}",
        changes=parent.changes | {option: value},
        before=parent.name,
        changed=words,
        group=group,
    )
