"""Format of the files that a study page draws: curves, examples and boxes in ``details/``, and ``neuron.json``."""

from typing import TypedDict

from focaldet.records.study import Split


class LossCurve(TypedDict):
    """Cumulative curve of one loss on the outputs of a trained network, as in figure 4 of the focal loss paper.

    Args:
        gamma: exponent of the focal loss without alpha; 0 is cross entropy.
        split: division of this loss between background and objects.
        background, objects: for each of ``Curves.fractions``, the share of the loss that comes from this fraction of
            locations, easiest first; ``null`` if there are no such locations or no loss.
    """

    gamma: float
    split: Split
    background: list[float] | None
    objects: list[float] | None


class Curves(TypedDict):
    """The cumulative curves at one point of training.

    Args:
        fractions: fractions of the locations, from 0 to 1; denser towards 1, where the curves rise.
        losses: cross entropy, and focal loss for each gamma, all on the same outputs.
    """

    fractions: list[float]
    losses: list[LossCurve]


class Decile(TypedDict):
    """A tenth of all sides, with similar predicted standard deviations.

    Args:
        sides: number of sides.
        deviation_px, error_px: root mean square of the predicted standard deviation, and of the error.
    """

    sides: int
    deviation_px: float
    error_px: float


class Box(TypedDict):
    """A detection with the details that the page shows on hover.

    Args:
        score, class_score, quality: final score and its two factors (``quality`` is ``null`` without a quality branch).
        iou: IoU with the object of its class that it overlaps most; 0 without one.
        found: whether it is a true positive: IoU of at least 0.5, and no better box matches the object (COCO's greedy
            rule).
        side_std_px: standard deviation of each side, or ``null``.
        distributions: ``(4, K)`` probabilities, or ``null``. Bin k of a side is at ``origin_xy`` minus (left, top) or
            plus (right, bottom) k times ``bin_xy``, in x for left and right and in y for top and bottom.
        origin_xy, bin_xy: location, and width of a bin, in pixels of the photo; ``null`` without distributions.
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
        image_id: id in ``truth.json``, which has the photo's path and objects.
    """

    image_id: int | str
    boxes: list[Box]


class SideExample(TypedDict):
    """A side whose distribution is very sharp or very wide for its stride.

    Args:
        side: 0 left, 1 top, 2 right, 3 bottom.
        std_bins: standard deviation of the side, in bins.
        error_px: distance from the object's side.
        object_xyxy: the matched object.
    """

    image_id: int | str
    box: Box
    side: int
    std_bins: float
    error_px: float
    object_xyxy: list[float]


class Moment(TypedDict):
    """State of a run at the end of an epoch; ``AP`` is on the validation split, ``null`` if it was not measured."""

    epoch: int
    minutes: float
    loss: float
    AP: float | None


class Details(TypedDict):
    """``details/<rung>-<seed>.json``.

    Args:
        history: the run's learning curve.
        curves_start, curves_end: before the first step, and with the saved weights; ``null`` if training diverged.
        deciles: by increasing predicted standard deviation; ``null`` if boxes have no distributions.
        sharpest, most_ambiguous: the most extreme first, at most one side per box; empty without distributions.
        photos: a few photos, spread over the measured split.
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
    """One neuron ``a = sigmoid(w x + b)``, trained by gradient descent.

    Args:
        cost: ``"quadratic"`` or ``"cross entropy"``.
        start: ``"near"`` (wrong, not saturated) or ``"saturated"``.
        weight, bias, learning_rate, x, y: initial values.
        cost_values, outputs, gradients: C, a and dC/dw before each step.
        steps_to_half: first step at which the output has come more than half of the way to y; ``null`` if never.
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
    """A loss and its derivative with respect to the logit, at each of ``Neuron.logits``.

    Args:
        loss: name of the public function: ``"sigmoid_focal_loss"``.
        title: entry in a legend: ``"focal, gamma 2"``.
        target: y.
        parameters: arguments of the function that differ from its defaults.
    """

    loss: str
    title: str
    target: float
    parameters: dict[str, float | None]
    values: list[float]
    gradients: list[float]


class DistributionCurve(TypedDict):
    """Distribution focal loss over two bins against the probability of the upper one; its minimum is at the label.

    Args:
        label: y, between bin 0 and bin 1.
        probabilities: probability of bin 1; values: the loss; gradients: derivative for the logit of bin 1.
        minimum_at: probability with the lowest loss.
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
