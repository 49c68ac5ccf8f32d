"""The rungs: each is the one before it with one thing changed, from cross entropy to the Generalized Focal Loss."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from focaldet.checks import InputError, near_name
from focaldet.study.record import Group, RungRow


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One way to train.

    Args:
        name: part of file names.
        title: for people.
        changes: fields of ``TrainConfig`` in which it differs from the study's settings.
        before: name of the rung that it is compared with.
        changed: what is new beside that one, for people.
        group: the ladder, or the question that it is an extra rung of.
    """

    name: str
    title: str
    changes: dict[str, Any]
    before: str | None
    changed: str
    group: Group = "ladder"

    def row(self) -> RungRow:
        """The rung as ``study.json`` has it."""
        return RungRow(
            name=self.name,
            title=self.title,
            group=self.group,
            changes=self.changes,
            compared_with=self.before,
            changed=self.changed,
        )


CHOSEN_HERE = ("method", "class_loss", "resume", "profile", "devices", "nodes")
"""Options of ``focaldet train`` that a study chooses by itself: a rung is trained in one process."""

LADDER = (
    Rung(
        name="retinanet-bce-no-prior",
        title="RetinaNet, cross entropy, no prior",
        changes={"method": "retinanet", "class_loss": "bce", "prior_prob": 0.5},
        before=None,
        changed="where the story begins",
    ),
    Rung(
        name="retinanet-bce",
        title="RetinaNet, cross entropy",
        changes={"method": "retinanet", "class_loss": "bce"},
        before="retinanet-bce-no-prior",
        changed="the bias begins at a rare object's probability",
    ),
    Rung(
        name="retinanet-focal",
        title="RetinaNet, focal loss",
        changes={"method": "retinanet", "class_loss": "focal"},
        before="retinanet-bce",
        changed="focal loss in place of cross entropy",
    ),
    Rung(
        name="fcos",
        title="FCOS",
        changes={"method": "fcos", "class_loss": "focal"},
        before="retinanet-focal",
        changed="points in place of nine anchors, and centerness",
    ),
    Rung(
        name="atss",
        title="ATSS, centerness",
        changes={"method": "atss", "class_loss": "focal"},
        before="fcos",
        changed="positives by the statistics of their IoU",
    ),
    Rung(
        name="atss-qfl",
        title="ATSS, quality focal loss",
        changes={"method": "atss", "class_loss": "quality_focal"},
        before="atss",
        changed="one score for class and quality in place of centerness",
    ),
    Rung(
        name="gfl",
        title="GFL",
        changes={"method": "gfl", "class_loss": "quality_focal"},
        before="atss-qfl",
        changed="sides are distributions, with distribution focal loss",
    ),
    Rung(
        name="gflv2",
        title="GFLv2",
        changes={"method": "gflv2", "class_loss": "quality_focal"},
        before="gfl",
        changed="the shape of the distributions tells the quality",
    ),
)
"""In the order of the story."""

PAPER_ALPHA = {0.0: 0.75, 0.1: 0.75, 0.2: 0.75, 0.5: 0.5, 1.0: 0.25, 2.0: 0.25, 5.0: 0.25}
"""gamma -> the alpha that is best with it (focal loss paper, table 1b): the more gamma silences the easy sites, most of
them background, the less the objects need a weight of their own."""


def choose_rungs(
    names: Sequence[str] | None = None,
    *,
    gammas: Sequence[float] = (),
    betas: Sequence[float] = (),
    bins: Sequence[int] = (),
    settings: dict[str, Any],
) -> list[Rung]:
    """The rungs of a study, in the order of the story.

    Args:
        names: of the ladder; ``None``: all of it.
        gammas: RetinaNet with focal loss at each, with the alpha that the paper found best there.
        betas: ATSS with quality focal loss at each.
        bins: GFL with so many bins a side.
        settings: options that all rungs have in common. An extra rung that is the ladder's own is left out.

    Raises:
        InputError: there is no rung of that name.

    >>> rungs = choose_rungs(["atss", "gfl"], bins=[17, 9], settings={"num_bins": 17})
    >>> [(rung.name, rung.before) for rung in rungs]
    [('atss', None), ('gfl', 'atss'), ('gfl-bins-9', 'gfl')]
    """
    known = {rung.name: rung for rung in LADDER}
    for name in names or ():
        if name not in known:
            raise InputError(f"--rungs: unknown rung {name!r}; {near_name(name, known)}")
    chosen = {rung.name: _after_chosen(rung, names or known) for rung in LADDER if names is None or rung.name in names}
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


def _after_chosen(rung: Rung, names: Collection[str]) -> Rung:
    """The rung, compared with the nearest one before it that is chosen."""
    known = {rung.name: rung for rung in LADDER}
    before, changed = rung.before, [rung.changed]
    while before is not None and before not in names:
        changed.insert(0, known[before].changed)
        before = known[before].before
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
