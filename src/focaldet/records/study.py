"""Format of the files of a study, field by field. Pages and tables are made from these files alone.

A study is a folder::

    study.json              Study: rungs, data and settings; written when the study starts
    study.jsonl             one Line per finished rung and seed, in the order of finishing
    summary.json            Summary: mean and spread of each rung, and comparisons; computed from the two files above
    details/<rung>-<seed>.json    Details: curves, examples, the boxes of a few photos
    truth.json              COCO data set of the measured photos; ``file_name`` is the absolute path of a photo
    neuron.json             Neuron: the quadratic cost against cross entropy, and the curves of the losses
    runs/<rung>-<seed>/     the run folder of ``focaldet train``; may be deleted

Boxes are x1, y1, x2, y2 in pixels of the photo; sides are left, top, right, bottom; labels are indices into
``Study.class_names``; image ids refer to ``truth.json``. In a study over folds, each fold has its own seed.
Numbers that could not be measured are ``null``. Shares are in [0, 1].
"""

from typing import Any, Literal, NotRequired, TypedDict

FORMAT = 1
"""Format of all these files; increased when older versions cannot read new files."""

TESTS = {
    "seed": "Welch's t-test over the seeds",
    "fold": "t-test paired by fold, corrected for trainings that share photos (Nadeau and Bengio, 2003)",
}
"""Unit of a study, over which numbers vary -> the test for the interval of a difference."""

Group = Literal["ladder", "gamma", "beta", "bins", "rare", "assign", "distil", "boxes"]


class RungRow(TypedDict):
    """One training configuration, and the one it is compared with.

    Args:
        name: identifier, part of file names: ``"retinanet-bce"``.
        title: name for people: ``"RetinaNet, cross entropy"``.
        group: the ladder, one of the extra questions, or a chapter after the ladder.
        changes: options of ``focaldet train`` that differ from the study's settings.
        compared_with: name of the rung before it, or ``null``.
        changed: difference from that rung, for people: ``"focal loss instead of cross entropy"``.
    """

    name: str
    title: str
    group: Group
    changes: dict[str, Any]
    compared_with: str | None
    changed: str


class Study(TypedDict):
    """``study.json``.

    Args:
        format, focaldet: ``FORMAT``, and the version of focaldet that started the study.
        data: photo folder; description: its content and the origin of its splits.
        settings: options of ``focaldet train`` that all rungs share (data, size, minutes, ...).
        rungs: all rungs, in order; seeds: seeds of each rung.
        folds: in a study over folds, the photos of each fold, by their paths in the photo folder. The training with
            ``seeds[i]`` is measured on fold i, the next fold selects its weights, and the others train it.
        class_names: name of each label.
        split: the measured split: ``"test"``, or ``"val"`` if there is no test split.
        photos: number of photos per split, or per fold (``"fold 1"``, ...).
        objects: number of objects per split or fold, and label.
        rare_label: label of the class with the fewest training objects.
        machine: processor, cores, versions.
        max_detections: number of best detections per photo that count in AP.
    """

    format: int
    focaldet: str
    data: str
    description: str
    settings: dict[str, Any]
    rungs: list[RungRow]
    seeds: list[int]
    folds: NotRequired[list[list[str]]]
    class_names: list[str]
    split: str
    photos: dict[str, int]
    objects: dict[str, list[int]]
    rare_label: int
    machine: str
    max_detections: int


class ClassRow(TypedDict):
    """AP of one class; ``null`` if the split has no objects of it."""

    name: str
    objects: int
    AP: float | None
    AP50: float | None
    AP75: float | None


class Split(TypedDict):
    """How a class loss and its gradient divide between background locations and object locations.

    Args:
        loss_share, gradient_share: the background's share; the gradient is the sum of absolute derivatives with respect
            to the class logits.
        background_loss, object_loss: the two parts of the loss, divided by the number of positive locations.
    """

    loss_share: float | None
    gradient_share: float | None
    background_loss: float
    object_loss: float


class Imbalance(TypedDict):
    """The rung's own class loss on a few training photos.

    Args:
        background_sites, object_sites: number of locations of each kind, without ignored ones.
        own: the rung's training loss.
        hardest_percent: share of the background loss that comes from the hardest 1 % of background locations.
    """

    background_sites: int
    object_sites: int
    own: Split
    hardest_percent: float | None


class Ranks(TypedDict):
    """Spearman's rank correlation with the true IoU, over locations whose box has an IoU of at least 0.5.

    Args:
        pooled: over all these locations.
        per_object: mean over objects of the correlation among the locations of one object, on which NMS depends.
    """

    pooled: float | None
    per_object: float | None


class Ranking(TypedDict):
    """How well the score ranks boxes by quality, on the measured split.

    Args:
        sites: number of boxes with an IoU of at least 0.5; objects: number of objects with such a box.
        class_score: ranking by the class probability alone.
        quality: ranking by the other branch alone (centerness, or GFLv2's); ``null`` without one.
        score: ranking by the final score: the product of both, or the class score if there is no other branch.
        candidates_objects: number of objects for which a box with an IoU of at least 0.5 enters NMS.
        best_lost: how many of them lose their best box to a worse one.
        best_lost_threshold: how many of them lose a box that meets one more of COCO's IoU thresholds (0.5, 0.55, ...)
            than the best kept box.
        iou_before, iou_after: mean over these objects of the best IoU before and after NMS.
        oracle_AP: AP if the score of each candidate were its true IoU, before NMS: the upper bound for any ranking.
    """

    sites: int
    objects: int
    class_score: Ranks
    quality: Ranks | None
    score: Ranks
    candidates_objects: int
    best_lost: int
    best_lost_threshold: int
    iou_before: float | None
    iou_after: float | None
    oracle_AP: float | None


class Deviations(TypedDict):
    """How well the distributions predict the errors of the sides, over the sides of true positives.

    Args:
        sides: number of sides.
        correlation: Spearman's rank correlation of standard deviation and absolute error, in pixels.
        correlation_relative: the same with both divided by the object's width or height, so that the correlation is not
            only due to large objects having large errors.
        ratio: root mean square error / root mean square standard deviation; above 1 is overconfident.
        within_1, within_2: share of the errors within one and two standard deviations.
    """

    sides: int
    correlation: float | None
    correlation_relative: float | None
    ratio: float | None
    within_1: float | None
    within_2: float | None


class BandWidth(TypedDict):
    """Bands that promise to contain the whole true box of 90 % of the detected objects, by cross-fitting.

    Args:
        boxes: number of detected objects, at the best-F1 threshold of their class; covered: share of them whose bands
            do.
        width_px: mean width of a band.
    """

    boxes: int
    covered: float
    width_px: float


class Bands(TypedDict):
    """The same promise, once in units of each side's standard deviation and once in units of the box size.

    Args:
        deviation: ``null`` if boxes have no distributions; both: ``null`` if there are too few detected objects.
    """

    deviation: BandWidth | None
    size: BandWidth | None


class Cost(TypedDict):
    """Time and memory of training.

    Args:
        minutes, epochs, steps: totals.
        seconds: seconds of a step by part (load, forward, assign, loss, log, backward, update), mean over the run.
        images_per_second: mean over the run.
        peak_memory_mb: peak memory of the training process (resident) or of its GPU, in MiB.
        terms_first, terms_last: mean of each weighted loss term in the first and in the last epoch.
    """

    minutes: float
    epochs: int
    steps: int
    seconds: dict[str, float]
    images_per_second: float
    peak_memory_mb: float | None
    terms_first: dict[str, float]
    terms_last: dict[str, float]


class Line(TypedDict):
    """A line of ``study.jsonl``: one rung, one seed.

    Args:
        settings: all options of the training.
        diverged: why training diverged (a loss was not finite), or ``null``. A diverged run has no detector, and its
            measurements are ``null``.
        metrics: COCO's twelve metrics, by their names in ``focaldet.evaluation.average_precision.METRICS``.
        per_class: one row per label; empty if training diverged.
        imbalance_start, imbalance_end: before the first step, and with the saved weights.
        deviations: ``null`` if boxes have no distributions.
    """

    format: int
    rung: str
    seed: int
    settings: dict[str, Any]
    diverged: str | None
    split: str
    metrics: dict[str, float | None]
    per_class: list[ClassRow]
    imbalance_start: Imbalance
    imbalance_end: Imbalance | None
    ranking: Ranking | None
    deviations: Deviations | None
    bands: Bands
    cost: Cost


class Spread(TypedDict):
    """A number over the seeds, or folds, of a rung.

    Args:
        values: value for each seed in the order of ``Row.seeds``, without those that could not be measured.
        mean: mean of the values; std: their standard deviation (n - 1), ``null`` for fewer than two.
    """

    values: list[float]
    mean: float | None
    std: float | None


class Row(TypedDict):
    """A rung in the table.

    Args:
        seeds: finished seeds; diverged: those among them whose training diverged, which have no numbers.
        numbers: number by name: COCO's twelve metrics; ``"rare_AP"``; ``"AP <class>"`` of each class; ``"rank_class"``,
            ``"rank_score"`` (``Ranks.per_object``); ``"rank_score_pooled"``; ``"best_lost_share"``
            (``best_lost / candidates_objects``), ``"best_lost_threshold_share"``; ``"oracle_AP"``;
            ``"background_loss_start"``, ``"background_loss_end"``, ``"background_gradient_start"``,
            ``"background_gradient_end"`` (shares for the rung's own loss); ``"deviation_correlation"``,
            ``"deviation_correlation_relative"``; ``"band_px"``, ``"band_size_px"`` (``BandWidth.width_px``, the
            first in standard deviations if there are any); ``"step_s"``, ``"peak_memory_mb"``.
    """

    rung: str
    title: str
    group: Group
    seeds: list[int]
    diverged: list[int]
    numbers: dict[str, Spread]


class Comparison(TypedDict):
    """Comparison of one number with the rung before.

    Args:
        rung, before: names of the rungs; number: a key of ``Row.numbers``.
        difference: difference of the means, rung minus before; over folds: mean of the differences in each fold.
        low, high: 95 % confidence interval of the difference; ``null`` with fewer than two seeds or folds of either.
            Over seeds by Welch's t-test, over folds by a paired t-test, corrected for trainings that share photos
            (``focaldet.evaluation.statistics``).
        verdict: ``"higher"`` or ``"lower"`` if the interval excludes 0, ``"within the spread"`` if it contains 0,
            ``"unknown"`` without an interval.
        sentence: the result in words.
    """

    rung: str
    before: str
    number: str
    difference: float
    low: float | None
    high: float | None
    verdict: Literal["higher", "lower", "within the spread", "unknown"]
    sentence: str


class Summary(TypedDict):
    """``summary.json``.

    Args:
        rows: all rungs with results, in order; comparisons: each rung with the one before.
        tied: in a study over folds, for each rung with an AP the others whose AP does not differ from its own beyond
            the interval.
    """

    format: int
    rows: list[Row]
    comparisons: list[Comparison]
    tied: NotRequired[dict[str, list[str]]]
