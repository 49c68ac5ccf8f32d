"""What the page of a study draws, field by field: curves, examples and boxes in ``details/``, and ``neuron.json``."""

from typing import TypedDict

from focaldet.records.study import Split


class LossCurve(TypedDict):
    """One loss on the outputs of a trained network: focal-loss paper, figure 4.

    Args:
        gamma: of the focal loss without alpha; 0 is cross entropy.
        split: with this loss.
        background, objects: share of the kind's loss in the fraction of its locations with the least loss, at each of
            ``Curves.fractions``; ``null`` when there is no such location or no loss.
    """

    gamma: float
    split: Split
    background: list[float] | None
    objects: list[float] | None


class Curves(TypedDict):
    """The cumulative losses of one moment.

    Args:
        fractions: of the locations, from the easiest to all, 0 to 1; denser towards 1, where the curves rise.
        losses: cross entropy, and focal loss by gamma, all on the same outputs.
    """

    fractions: list[float]
    losses: list[LossCurve]


class Decile(TypedDict):
    """Sides of about the same predicted deviation: a tenth of all.

    Args:
        sides: how many.
        deviation_px, error_px: root mean square of the predicted standard deviation, and of the error.
    """

    sides: int
    deviation_px: float
    error_px: float


class Box(TypedDict):
    """A detection, with what the page tells when it is touched.

    Args:
        score, class_score, quality: what ranks it, and its two factors (``quality`` is ``null`` without a branch).
        iou: with the object of its class that it overlaps most; 0 without one.
        found: it found an object: IoU of at least 0.5, and no better box took it (greedy, as COCO counts).
        side_std_px: of each side's distribution, or ``null``.
        distributions: ``(4, K)`` probabilities, or ``null``. Bin k of a side is at ``origin_xy`` minus (left, top) or
            plus (right, bottom) k times ``bin_xy``, in x for left and right and in y for top and bottom.
        origin_xy, bin_xy: the location, and the width of a bin, in pixels of the photo; ``null`` without distributions.
    """

    box_xyxy: list[float]
    label: int
    score: float
    class_score: float
    quality: float | None
    iou: float
    found: bool
    side_std_px: list[float] | None
    distributions: list[list[float]] | None
    origin_xy: list[float] | None
    bin_xy: list[float] | None


class Photo(TypedDict):
    """The detections of one photo, best first. The same photos for every rung.

    Args:
        image_id: in ``truth.json``, which has its path and its objects.
    """

    image_id: int | str
    boxes: list[Box]


class SideExample(TypedDict):
    """A side that is very sharp, or very ambiguous, for its stride.

    Args:
        side: 0 left, 1 top, 2 right, 3 bottom.
        std_bins: standard deviation of that side, in bins.
        error_px: distance of the side from the object's.
        object_xyxy: the object that was found.
    """

    image_id: int | str
    box: Box
    side: int
    std_bins: float
    error_px: float
    object_xyxy: list[float]


class Moment(TypedDict):
    """Where a run was at the end of an epoch; ``AP`` is on the validation split, ``null`` where it was not measured."""

    epoch: int
    minutes: float
    loss: float
    AP: float | None


class Details(TypedDict):
    """``details/<rung>-<seed>.json``.

    Args:
        history: the run's learning curve.
        curves_start, curves_end: before the first step, and of the weights that are kept; ``null`` when it diverged.
        deciles: by predicted deviation, from the sharpest; ``null`` for boxes without distributions.
        sharpest, most_ambiguous: the first is the most extreme; at most one side of a box, empty without distributions.
        photos: a few of the measured split, spread over it.
    """

    format: int
    rung: str
    seed: int
    history: list[Moment]
    curves_start: Curves
    curves_end: Curves | None
    deciles: list[Decile] | None
    sharpest: list[SideExample]
    most_ambiguous: list[SideExample]
    photos: list[Photo]


class NeuronCurve(TypedDict):
    """One neuron ``a = sigmoid(w x + b)`` taught by gradient descent.

    Args:
        cost: ``"quadratic"`` or ``"cross entropy"``.
        start: ``"near"`` (wrong, not saturated) or ``"saturated"``.
        weight, bias, learning_rate, x, y: at the start.
        cost_values, outputs, gradients: at each step, before it is made: C, a, dC/dw.
        steps_to_half: first step at which the output is nearer to y than half of the way from its start; ``null`` if
            never.
    """

    cost: str
    start: str
    weight: float
    bias: float
    learning_rate: float
    x: float
    y: float
    cost_values: list[float]
    outputs: list[float]
    gradients: list[float]
    steps_to_half: int | None


class FamilyCurve(TypedDict):
    """A loss and its derivative on the logit, at each of ``Neuron.logits``.

    Args:
        loss: name of the public function: ``"sigmoid_focal_loss"``.
        title: for a legend: ``"focal, gamma 2"``.
        target: y.
        parameters: of the function, where they are not its defaults.
    """

    loss: str
    title: str
    target: float
    parameters: dict[str, float | None]
    values: list[float]
    gradients: list[float]


class DistributionCurve(TypedDict):
    """Distribution focal loss against the probability of the right one of two bins; its minimum is at the label.

    Args:
        label: y, between bin 0 and bin 1.
        probabilities: of bin 1; values: the loss; gradients: on the logit of bin 1.
        minimum_at: probability with the least loss.
    """

    label: float
    probabilities: list[float]
    values: list[float]
    gradients: list[float]
    minimum_at: float


class Neuron(TypedDict):
    """``neuron.json``."""

    format: int
    curves: list[NeuronCurve]
    logits: list[float]
    family: list[FamilyCurve]
    distribution: list[DistributionCurve]
