"""The first chapter of a study's page: which loss, and why, in plain sentences with the reader's own numbers."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields

from focaldet.engine.config import TrainConfig
from focaldet.engine.option import as_options
from focaldet.evaluation.side_calibration import MIN_SIDES
from focaldet.records.run_files import entries, mapping, number, rows
from focaldet.records.study_files import Rung, StudyFiles, percent
from focaldet.report.study_charts import halfway

VERDICTS = {
    "higher": "a statistically significant gain",
    "lower": "a statistically significant loss",
    "within the spread": "within the spread of the {unit}s, so it may be chance",
    "unknown": "one {unit} each, so it may be chance",
}
"""Verdict of a comparison -> words for it after two numbers; ``unit`` is seed or fold."""

_EARLY_AP = 0.1  # below this, a detector has not learned its task yet
_STILL_RISING = 1.02  # AP still rises if the last validation beats all earlier ones by this factor


@dataclass(frozen=True)
class Claim:
    """One step of the story.

    Args:
        lead: the claim, or the purpose of a step.
        words: the explanation, with the numbers measured here.
        effects: the effect on AP, one sentence for each rung of the step.
    """

    lead: str
    words: str
    effects: list[str]


@dataclass(frozen=True)
class Advice:
    """The recommended loss.

    Args:
        lead: the advice in a few words, as strong as the study allows.
        rung: the rung with the highest mean AP.
        tied: the other rungs whose best seed reaches the worst seed of that rung; over folds, the other rungs that do
            not differ from it beyond the interval.
        command: trains the rung again.
        sentences: caveats.
    """

    lead: str
    rung: Rung
    tied: list[Rung]
    command: str
    sentences: list[str]


def advice(files: StudyFiles) -> Advice | None:
    """The best rung and the rungs that are tied with it; None if no rung has an AP.

    Only rungs with the same network compete: the chapter on a teacher has a larger one.
    """
    compared = [rung for group in ("ladder", "rare", "assign", "boxes") for rung in files.group(group)]
    measured = [(spread.mean, rung) for rung in compared if (spread := rung["AP"])]
    if not measured:
        return None
    best = max(measured, key=lambda pair: pair[0])[1]
    tied = [rung for _, rung in measured if rung is not best and _is_tied(files, rung, best)]
    sentences = []
    if files.num_seeds < 2 and files.num_folds:
        sentences.append(f"Only one of {files.num_folds} folds is finished, so differences may be chance.")
    elif files.num_seeds < 2:
        more = f"focaldet study --out {shlex.quote(str(files.path))} --seeds 3"
        sentences.append(f"With one seed per rung, differences may be chance; {more} adds two seeds.")
    elif tied:
        names = _listed([rung.title for rung in tied])
        if files.num_folds:
            why = f"Its AP does not differ from {names} beyond the spread of the folds"
        else:
            why = f"The range of its seeds overlaps with {names}"
        sentences.append(f"{why}, so AP alone does not decide between them.")
        timed = [(spread.mean, rung) for rung in (best, *tied) if (spread := rung["step_s"])]
        if len(timed) > 1:
            seconds, fastest = min(timed, key=lambda pair: pair[0])
            sentences.append(f"{fastest.title} has the shortest training step among them: {1000 * seconds:,.0f} ms.")
    else:
        beats = "It is better than every other rung, beyond the spread of the folds."
        sentences.append(beats if files.num_folds else "Its worst seed beats the best seed of every other rung.")
    if _mean(best) < _EARLY_AP:
        sentences.append(f"No rung has reached an AP of {_EARLY_AP:g} yet: train longer before you choose a loss.")
    elif rising := [rung for _, rung in measured if _rising(rung)]:
        sentences.append(
            f"AP on the validation split was still rising at the end of training in {len(rising)} of {len(measured)} "
            "rungs, so the order may change with longer training."
        )
    sure = files.num_seeds >= max(files.num_folds, 2) and _mean(best) >= _EARLY_AP and not files.waiting
    lead = f"{'Use' if sure else 'The best so far is'} {best.title}."
    return Advice(lead, best, tied, train_command(files, best), sentences)


def answer(files: StudyFiles, best: Advice | None) -> str:
    """The result of the study in one or two sentences."""
    split, photos = files.study.get("split"), files.study.get("photos")
    count = photos.get(split) if isinstance(photos, dict) and isinstance(split, str) else None
    where = f"the {count:,} photos of the {split} split" if isinstance(count, int) and count else "the evaluated photos"
    if files.num_folds:
        where = f"the {sum(map(len, map(entries, entries(files.study.get('folds'))))):,} photos"
    if best is None:
        return f"No rung has an AP on {where} yet."
    trainings = len(_values(best.rung))
    mean = f", mean of {trainings} {files.unit}s" if trainings > 1 else ""
    if 0 < trainings < files.num_folds:
        mean = f", from {trainings} of {files.num_folds} folds"
    sentence = f"{best.rung.title} has the highest AP, {_mean(best.rung):.3f} on {where}{mean}."
    if not best.tied or files.num_seeds < 2:
        return sentence
    tied = _listed([rung.title for rung in best.tied])
    return f"{sentence} {tied} {'is' if len(best.tied) == 1 else 'are'} statistically tied with it."


def train_command(files: StudyFiles, rung: Rung) -> str:
    """The command that trains a rung as in the study: its own options and the study's non-default options."""
    defaults = {field.name: field.default for field in fields(TrainConfig)}
    shared = {name: value for name, value in mapping(files.study.get("settings")).items() if name in defaults}
    given = {name: value for name, value in shared.items() if name != "data" and value not in (defaults[name], None)}
    values = {"data": files.study.get("data", "DIR")} | rung.changes | given | rung.changes
    return f"focaldet train {as_options(values)}"


def claims(files: StudyFiles) -> list[Claim]:
    """The steps of the story for which this study has results, in order."""
    steps = (_crowd, _cross_entropy, _focal, _places, _quality, _distributions, _shapes)
    return [claim for step in steps if (claim := step(files))]


def _crowd(files: StudyFiles) -> Claim | None:
    for rung in files.group("ladder"):
        background, objects = (rung.mean("imbalance_start", f"{kind}_sites") for kind in ("background", "object"))
        if background and objects:
            ratio, name = background / objects, rung.title.partition(",")[0]
            count = f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"
            return Claim(
                "Most locations of a detector are background.",
                f"A detector scores thousands of locations in every photo. On your training photos, {name} has {count} "
                "background locations for each location on an object. "
                "The loss decides which of them the detector learns from.",
                [],
            )
    return None


def _cross_entropy(files: StudyFiles) -> Claim | None:
    taught = {
        curve.get("cost"): curve for curve in rows(files.neuron.get("curves")) if curve.get("start") == "saturated"
    }
    if not {"quadratic", "cross entropy"} <= taught.keys():
        return None
    slow, fast = halfway(taught["quadratic"]), halfway(taught["cross entropy"])
    return Claim(
        "Cross entropy learns fastest where the error is largest.",
        f"A neuron that is confident and wrong needs {slow} steps to halve its error with the quadratic cost, but "
        f"{fast} with cross entropy, because the gradient of cross entropy is the error itself.",
        [],
    )


def _focal(files: StudyFiles) -> Claim | None:
    plain, prior, focal = (files.rung(f"retinanet-{name}") for name in ("bce-no-prior", "bce", "focal"))
    key = "background_gradient_start"
    parts = [
        (plain, "of the first gradient comes from background with cross entropy"),
        (prior, "with a prior, which makes every location start as probably background"),
        (focal, "with focal loss, which down-weights easy locations"),
    ]
    shares = [f"{percent(share.mean)} {words}" for rung, words in parts if rung and (share := rung[key])]
    if not shares or not (prior or focal):
        return None
    of_what = "" if plain and plain[key] else "the background's share of the first gradient is "
    words = f"Summed over all locations, many small errors outweigh a few large ones: {of_what}{'; '.join(shares)}."
    ends = [
        (name, rung["background_gradient_end"])
        for name, rung in (("cross entropy", prior), ("focal loss", focal))
        if rung
    ]
    known = [f"{percent(share.mean)} with {name}" for name, share in ends if share]
    if known:
        words += f" At the end of training, the background's share is {' and '.join(known)}."
    return Claim("Focal loss is meant to down-weight the many easy locations.", words, _effects(files, prior, focal))


def _places(files: StudyFiles) -> Claim | None:
    rungs = [rung for rung in map(files.rung, ("fcos", "atss")) if rung]
    effects = _effects(files, *rungs)
    if not effects:
        return None
    return Claim(
        "Two steps change the locations, not the loss.",
        "FCOS uses points instead of nine anchors and learns how central a point is (centerness). ATSS chooses the "
        "positives of each object by the statistics of their IoU.",
        effects,
    )


def _quality(files: StudyFiles) -> Claim | None:
    joint = files.rung("atss-qfl")
    if joint is None:
        return None
    words = (
        "Non-maximum suppression keeps only the box with the highest score on each object, so the score should reflect "
        "the quality of the box. Quality focal loss trains the score towards the IoU of the box."
    )
    before = files.rung("atss")
    ranks = [rung["rank_score"] if rung else None for rung in (before, joint)]
    if ranks[0] and ranks[1]:
        words += (
            f" Among the boxes of one object, the rank correlation of score and true IoU is {ranks[0].mean:.2f} "
            f"with class × centerness and {ranks[1].mean:.2f} with the joint score "
            f"({_verdict(files, joint, 'rank_score')})"
        )
        lost = [rung["best_lost_threshold_share"] if rung else None for rung in (before, joint)]
        if lost[0] and lost[1]:
            words += (
                f"; {percent(lost[0].mean)} of the objects lose a clearly better box to non-maximum suppression with "
                f"class × centerness, and {percent(lost[1].mean)} with the joint score"
            )
        words += "."
    return Claim(
        "Quality focal loss is meant to make the score reflect the quality of the box.", words, _effects(files, joint)
    )


def _distributions(files: StudyFiles) -> Claim | None:
    rung = files.rung("gfl")
    if rung is None:
        return None
    words = (
        "Edges may be blurred or hidden. With distribution focal loss, each side is a distribution over positions "
        "instead of a single number."
    )
    sides = rung.mean("deviations", "sides") or 0
    if (correlation := rung["deviation_correlation"]) and sides >= MIN_SIDES:
        words += f" Its standard deviation and the error of the side have a rank correlation of {correlation.mean:.2f}"
        deciles = rows(rung.details.get("deciles"))
        if len(deciles) > 1:
            sure, unsure = (number(deciles[i].get("error_px")) for i in (0, -1))
            if sure is not None and unsure is not None:
                words += (
                    f": the most certain tenth of the sides is off by {sure:.1f} px, the least certain tenth by "
                    f"{unsure:.1f} px"
                )
        words += "."
    return Claim(
        "Distribution focal loss is meant to estimate the uncertainty of each side.", words, _effects(files, rung)
    )


def _shapes(files: StudyFiles) -> Claim | None:
    effects = _effects(files, files.rung("gflv2"))
    words = "A sharp distribution indicates a good box; GFLv2 uses it to correct the score."
    return (
        Claim("GFLv2 is meant to judge a box by the shape of its distributions.", words, effects) if effects else None
    )


def _effects(files: StudyFiles, *rungs: Rung | None) -> list[str]:
    return [sentence for rung in rungs if rung and (sentence := effect(files, rung))]


def effect(files: StudyFiles, rung: Rung) -> str:
    """The effect of a rung on AP, compared with the one before it; empty if it is unknown."""
    here, before = rung["AP"], files.rung(rung.before)
    if here is None:
        return f"{rung.title}: every run diverged." if rung.diverged else ""
    if before is None:
        return ""
    there = before["AP"]
    if there is None:
        return f"{rung.title}: AP {here}; every run of {before.title} diverged." if before.diverged else ""
    return f"{rung.title}: AP {there} → {here}, {_verdict(files, rung, 'AP')}."


def _verdict(files: StudyFiles, rung: Rung, key: str) -> str:
    return VERDICTS[str(files.comparison(rung.name, key).get("verdict", "unknown"))].format(unit=files.unit)


def _is_tied(files: StudyFiles, rung: Rung, best: Rung) -> bool:
    """Whether a rung is as good as the best one with some seed, or does not differ from it over the folds."""
    if files.num_folds:
        return rung.name in entries(files.tied.get(best.name, [rung.name]))
    return max(_values(rung)) >= min(_values(best))


def _values(rung: Rung) -> list[float]:
    spread = rung["AP"]
    return spread.values if spread else []


def _mean(rung: Rung) -> float:
    spread = rung["AP"]
    assert spread, "chosen among the rungs that have one"
    return spread.mean


def _rising(rung: Rung) -> bool:
    """Whether the last validation AP of the rung is clearly its best."""
    measured = [ap for moment in rows(rung.details.get("history")) if (ap := number(moment.get("AP"))) is not None]
    return len(measured) > 1 and measured[-1] > _STILL_RISING * max(measured[:-1])


def _listed(names: Sequence[str]) -> str:
    """``A``, ``A and B``, ``A, B and C``; with semicolons if a name contains a comma.

    >>> _listed(["GFL", "GFLv2"]), _listed(["GFL", "ATSS, centerness", "GFLv2"])
    ('GFL and GFLv2', 'GFL; ATSS, centerness; and GFLv2')
    """
    if len(names) > 2 and any("," in name for name in names):
        return "; ".join(names[:-1]) + "; and " + names[-1]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
