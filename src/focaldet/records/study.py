"""What a study writes: the JSON of its files, field by field. Pages and tables are made from these files alone.

A study is a folder::

    study.json              Study: what is compared, on what, by which settings; written when the study begins
    study.jsonl             a Line for each rung and seed that is finished, in the order of finishing
    summary.json            Summary: mean and spread of each rung, rung against rung; made of the two above
    details/<rung>-<seed>.json    Details: curves, examples, the boxes of a few photos
    truth.json              COCO: objects of the photos that are measured; ``file_name`` is the photo's whole path
    neuron.json             Neuron: the quadratic cost against cross entropy, and the curves of the losses
    runs/<rung>-<seed>/     the training run, as ``focaldet train`` leaves it; may be deleted

Boxes are x1, y1, x2, y2 in pixels of the photo, sides are left, top, right, bottom, labels are places in
``Study.class_names``; image ids are those of ``truth.json``. Numbers that could not be measured are ``null``. A share
is in [0, 1].
"""

from typing import Any, Literal, TypedDict

FORMAT = 1
"""Of all these files; raised when an older page could not read a new one."""

Group = Literal["ladder", "gamma", "beta", "bins"]


class RungRow(TypedDict):
    """One way to train, and the one it is compared with.

    Args:
        name: ``"retinanet-bce"``, part of file names.
        title: for people: ``"RetinaNet, cross entropy"``.
        group: the ladder of the story, or one of the extra questions.
        changes: options of ``focaldet train`` in which it differs from the study's settings.
        compared_with: name of the rung before it, or ``null``.
        changed: what is new beside that one, for people: ``"focal loss in place of cross entropy"``.
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
        format, focaldet: ``FORMAT``, and the version that began the study.
        data: folder of the photos; description: what was found in it, and where its splits are from.
        settings: the options of ``focaldet train`` that all rungs have in common (data, size, minutes, ...).
        rungs: in the order of the story; seeds: of each rung.
        class_names: by label.
        split: that is measured: ``"test"``, or ``"val"`` when there is no other.
        photos: number of photos of each split.
        objects: of each class, by label, of each split.
        rare_label: the class with the fewest objects to train on.
        machine: processor, cores, versions.
        max_detections: best detections of a photo that count in AP.
    """

    format: int
    focaldet: str
    data: str
    description: str
    settings: dict[str, Any]
    rungs: list[RungRow]
    seeds: list[int]
    class_names: list[str]
    split: str
    photos: dict[str, int]
    objects: dict[str, list[int]]
    rare_label: int
    machine: str
    max_detections: int


class ClassRow(TypedDict):
    """AP of one class; ``null`` without an object of it."""

    name: str
    objects: int
    AP: float | None
    AP50: float | None
    AP75: float | None


class Split(TypedDict):
    """How a class loss and its gradient are divided between locations of the background and locations of objects.

    Args:
        loss_share, gradient_share: of the background; gradient is the sum of absolute derivatives on the class logits.
        background_loss, object_loss: the two parts of the loss, divided by the number of positive locations.
    """

    loss_share: float | None
    gradient_share: float | None
    background_loss: float
    object_loss: float


class Imbalance(TypedDict):
    """The class loss of the rung itself on a few training photos.

    Args:
        background_sites, object_sites: number of locations of each kind (of ignored ones, none).
        own: as the rung is trained.
        hardest_percent: share of the background's loss that its hardest hundredth of locations has.
    """

    background_sites: int
    object_sites: int
    own: Split
    hardest_percent: float | None


class Ranks(TypedDict):
    """Spearman's rank correlation with the true IoU, over all locations whose box has an IoU ≥ 0.5 with an object.

    Args:
        pooled: over all these locations.
        per_object: mean over objects of the correlation among the locations of one object, which is what the
            suppression goes by.
    """

    pooled: float | None
    per_object: float | None


class Ranking(TypedDict):
    """Does the score rank boxes by their quality? On the measured split.

    Args:
        sites: number of boxes with an IoU of at least 0.5; objects: that have such a box.
        class_score: ranks by the class probability alone.
        quality: by the other branch alone (centerness, or GFLv2's); ``null`` without one.
        score: by what ranks the detections: the product of the two, or the class score where it is alone.
        candidates_objects: objects with a box of IoU 0.5 or more that went into the suppression.
        best_lost: of these, whose best box was not kept, while a worse one was.
        best_lost_threshold: of these, whose best box would have met one more of COCO's IoU thresholds (0.5, 0.55, ...)
            than the best that was kept.
        iou_before, iou_after: mean over these objects of their best IoU, going into the suppression and coming out.
        oracle_AP: AP when each candidate's score is its true IoU, before the suppression: what ranking alone could
            give.
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
    """Do the distributions tell the error of their sides? Over the sides of detections that found their object.

    Args:
        sides: how many.
        correlation: Spearman's, of standard deviation and absolute error, in pixels.
        correlation_relative: the same with both divided by the object's width or height, so that it is not only
            large objects that have large errors.
        ratio: root mean square error over root mean square deviation; above 1: too sure.
        within_1, within_2: share of the errors within one and two deviations.
    """

    sides: int
    correlation: float | None
    correlation_relative: float | None
    ratio: float | None
    within_1: float | None
    within_2: float | None


class Cost(TypedDict):
    """What training took.

    Args:
        minutes, epochs, steps: in all.
        seconds: of a step, by part (load, forward, assign, loss, log, backward, update), mean over the run.
        images_per_second: mean over the run.
        peak_memory_mb: largest memory of the training process (resident) or of its GPU.
        terms_first, terms_last: each weighted loss term, mean over the first and over the last epoch.
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
        settings: all options that the run was trained with.
        diverged: why the training stopped short, a loss that was no number any more; else ``null``. Then there is no
            detector, and what is measured of it is ``null``.
        metrics: COCO's twelve, by their names in ``focaldet.evaluation.average_precision.METRICS``.
        per_class: by label; no rows when it diverged.
        imbalance_start, imbalance_end: before the first step, and of the weights that are kept.
        deviations: ``null`` for boxes without distributions.
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
    cost: Cost


class Spread(TypedDict):
    """A number over the seeds of a rung.

    Args:
        values: by seed, in the order of ``Row.seeds``; without those that could not be measured.
        mean: of the values; std: their standard deviation (n - 1), ``null`` of fewer than two.
    """

    values: list[float]
    mean: float | None
    std: float | None


class Row(TypedDict):
    """A rung in the table.

    Args:
        seeds: that are finished; diverged: those of them that have no detector, and so no number.
        numbers: by name: COCO's twelve metrics; ``"rare_AP"``; ``"AP <class>"`` of each class; ``"rank_class"``,
            ``"rank_score"`` (``Ranks.per_object``); ``"rank_score_pooled"``; ``"best_lost_share"``
            (``best_lost / candidates_objects``), ``"best_lost_threshold_share"``; ``"oracle_AP"``;
            ``"background_loss_start"``, ``"background_loss_end"``, ``"background_gradient_start"``,
            ``"background_gradient_end"`` (shares, of the rung's own loss); ``"deviation_correlation"``,
            ``"deviation_correlation_relative"``; ``"step_s"``, ``"peak_memory_mb"``.
    """

    rung: str
    title: str
    group: Group
    seeds: list[int]
    diverged: list[int]
    numbers: dict[str, Spread]


class Comparison(TypedDict):
    """A rung against the one before it, in one of the numbers.

    Args:
        rung, before: their names; number: a key of ``Row.numbers``.
        difference: of the means, rung minus before.
        low, high: 95 % interval of the difference (Welch's t), ``null`` with fewer than two seeds of either.
        verdict: ``"higher"`` or ``"lower"`` when the interval lies on one side of 0, ``"within the spread"`` when it
            holds 0, ``"unknown"`` without an interval.
        sentence: the same in plain words.
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
    """``summary.json``: the rungs that have a line, in the order of the story, and each against the one before."""

    format: int
    rows: list[Row]
    comparisons: list[Comparison]
