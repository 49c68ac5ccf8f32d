"""The losses under every condition: saturated, masked, weighted, transformed or invalid inputs."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import focaldet
from focaldet import SparseTargets
from shapes import unchecked_shapes

Z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
SOFT = torch.rand(6, 4, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 3, -1, 2, -2, 1])
CLASSES = torch.tensor([0, 3, 1, 2, -100, 1])
POSITIONS = torch.tensor([0.0, 0.5, 3.0, 2.2, 1.0, 1.7])
BOXES = torch.tensor([[0.0, 0, 2, 2], [1, 1, 4, 3], [0, 0, 1, 5]])
OTHERS = BOXES + 0.3


def gradient(loss: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    z = z.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(z), z)
    return grad


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("lead", [20.0, 87.0, 95.0, 104.0, 1e4])
@pytest.mark.parametrize("alpha", [1.0, 10.0])
def test_a_saturated_row_has_a_finite_gradient(impl, gamma, lead, alpha):
    weights = torch.tensor([alpha, 1.0, 1.0])
    for label in (0, 1):
        z = torch.tensor([[lead, 0.0, -1.0]])
        loss = partial(focaldet.softmax_focal_loss, labels=torch.tensor([label]), gamma=gamma, alpha=weights, impl=impl)
        found = gradient(lambda x, loss=loss: loss(x, reduction="sum"), z)
        assert found.isfinite().all()
        assert abs(float(found.sum())) <= 1e-5 * max(1.0, float(found.abs().max()))


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("logit", [87.0, 95.0, 1e4])
def test_quality_focal_of_a_saturated_logit_is_finite(impl, beta, logit):
    for sign, target in ((1, 1.0), (-1, 0.0), (1, 0.0), (-1, 1.0)):
        loss = partial(focaldet.quality_focal_loss, targets=torch.tensor([target]), beta=beta, impl=impl)
        assert gradient(lambda x, loss=loss: loss(x, reduction="sum"), torch.tensor([sign * logit])).isfinite().all()


@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_infinite_logits_are_as_torch_has_them(impl):
    z = torch.tensor([[0.0, -math.inf, 1.0], [2.0, 1.0, -math.inf]])
    labels = torch.tensor([2, 2])  # the second one's own logit is masked
    found = focaldet.cross_entropy(z, labels, impl=impl)
    torch.testing.assert_close(found, F.cross_entropy(z, labels, reduction="none"))
    smoothed = focaldet.cross_entropy(z, labels, label_smoothing=0.1, impl=impl)
    torch.testing.assert_close(smoothed, F.cross_entropy(z, labels, reduction="none", label_smoothing=0.1))
    ours = gradient(lambda x: focaldet.cross_entropy(x, labels, reduction="sum", impl=impl), z)
    torch.testing.assert_close(ours, gradient(lambda x: F.cross_entropy(x, labels, reduction="sum"), z))


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("exponent", [0, 0.5, 1, 2])
@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y, e, **call: focaldet.sigmoid_focal_loss(z, y, gamma=e, **call),
        lambda z, y, e, **call: focaldet.quality_focal_loss(z, y, beta=e, **call),
        lambda z, y, e, **call: focaldet.varifocal_loss(z, y, gamma=e, **call),
        lambda z, y, e, **call: focaldet.matchability_aware_loss(z, y, gamma=e, **call),
    ],
    ids=["focal", "quality focal", "varifocal", "matchability"],
)
def test_a_logit_at_infinity_on_the_side_of_its_target_has_no_loss_and_no_gradient(loss, exponent, impl):
    """As where a class is masked by -inf. On the other side the loss is infinite."""
    z = torch.tensor([[0.3, -math.inf, 1.0], [math.inf, 1.0, -math.inf]])
    y = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    losses = loss(z, y, exponent, impl=impl)
    finite = loss(z.clamp(-200, 200), y, exponent, impl=impl)
    torch.testing.assert_close(losses, finite)
    grad = gradient(lambda x: loss(x, y, exponent, impl=impl, reduction="sum"), z)
    assert grad[z.isinf()].abs().max() < 1e-37  # the kernels' exponential ends there
    assert loss(-z, y, exponent, impl=impl)[z.isinf()].tolist() == [math.inf] * 3


@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_distillation_of_masked_and_of_huge_logits(impl):
    """A class that the teacher masks may have any logit; one that only the student masks costs infinity."""
    z = torch.tensor([[0.0, -math.inf, 1.0], [-math.inf, 0.0, 1.0], [0.0, -math.inf, 1.0], [1e4, 0.0, -1e4]])
    teacher = torch.tensor([[0.0, -math.inf, 3.0], [0.0, -math.inf, 1.0], [0.0, 0.0, 1.0], [-1e4, 0.0, 1e4]])
    losses = focaldet.distillation_loss(z, teacher, temperature=2.0, impl=impl)
    torch.testing.assert_close(losses[[1, 2, 3]], torch.tensor([math.inf, math.inf, 4e4]))
    unmasked = focaldet.distillation_loss(z[:1, ::2], teacher[:1, ::2], temperature=2.0, impl=impl)
    torch.testing.assert_close(losses[:1], unmasked)
    found = gradient(lambda x: focaldet.distillation_loss(x, teacher, temperature=2.0, reduction="sum", impl=impl), z)
    torch.testing.assert_close(found, 2 * ((z / 2).softmax(1) - (teacher / 2).softmax(1)))


def test_a_student_near_its_teacher_has_a_small_loss_that_is_not_negative():
    """T² = 100 would multiply the rounding errors of a difference of logarithms."""
    teacher = torch.randn(500, 17, generator=torch.Generator().manual_seed(0))
    z = teacher + 1e-3 * torch.randn(500, 17, generator=torch.Generator().manual_seed(1))
    losses, true = (focaldet.distillation_loss(x, teacher.to(x.dtype)) for x in (z, z.double()))
    torch.testing.assert_close(losses.double(), true, rtol=1e-3, atol=0)
    assert focaldet.distillation_loss(z, z, impl="fused").abs().max() == 0


@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_a_row_without_weight_may_have_any_teacher_and_no_teacher_gets_a_gradient(impl):
    teacher = Z.flip(0).requires_grad_()
    loss = partial(focaldet.distillation_loss, reduction="sum", weight=torch.tensor([1.0, 0, 1, 1, 1, 1]), impl=impl)
    spoiled = teacher.detach().clone()
    spoiled[1] = math.nan
    torch.testing.assert_close(loss(Z, spoiled), loss(Z, teacher.detach()))
    assert torch.equal(gradient(lambda x: loss(x, spoiled), Z)[1], torch.zeros(4))
    assert not loss(Z, teacher).requires_grad


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("weight", [math.nan, math.inf, 0.0])
def test_an_ignored_row_never_contributes(impl, weight):
    z = torch.full((2, 3), math.nan)
    z[1] = 0.5
    weights = torch.tensor([weight, 1.0])
    sigmoid = partial(
        focaldet.sigmoid_focal_loss,
        targets=SparseTargets(torch.tensor([-2, 1]), torch.tensor([math.nan, 1])),
        weight=weights[:, None],
    )
    softmax = partial(focaldet.softmax_focal_loss, labels=torch.tensor([-100, 1]), weight=weights)
    for loss in (sigmoid, softmax):
        assert float(loss(z, reduction="sum", impl=impl)) == pytest.approx(float(loss(z, impl=impl)[1].sum()))
        found = gradient(lambda x, loss=loss: loss(x, reduction="sum", impl=impl), z)
        assert found[0].tolist() == [0, 0, 0]
        assert found[1].isfinite().all()


@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_what_weighs_nothing_may_be_anything(impl):
    targets = torch.tensor([[math.nan, 1.0], [1.0, 0.0]])
    weight = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    loss = partial(focaldet.quality_focal_loss, targets=targets, weight=weight, reduction="sum", impl=impl)
    assert gradient(loss, torch.zeros(2, 2)).isfinite().all()
    assert math.isfinite(float(loss(torch.zeros(2, 2))))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_numbers_as_weights_are_not_rounded(dtype):
    z, y = torch.zeros(1, 1, dtype=dtype), torch.ones(1, 1, dtype=dtype)
    found = focaldet.binary_cross_entropy(z, y, weight=0.3, reduction="sum")
    assert float(found) == pytest.approx(0.3 * math.log(2), rel=1e-15 if dtype == torch.float64 else 1e-7)
    both = focaldet.cross_entropy(torch.zeros(1, 2, dtype=dtype), torch.tensor([0]), alpha=0.3, weight=0.1)
    assert float(both) == pytest.approx(0.03 * math.log(2), rel=1e-15 if dtype == torch.float64 else 1e-7)


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("kind", ["varifocal", "matchability_aware"])
def test_alpha_of_each_class_weighs_the_negatives(impl, kind):
    loss = {"varifocal": focaldet.varifocal_loss, "matchability_aware": focaldet.matchability_aware_loss}[kind]
    alpha = torch.tensor([0.1, 0.5, 0.9, 1.0])
    by_class = loss(Z, SparseTargets(LABELS), alpha=alpha, impl=impl)
    columns = [loss(Z, SparseTargets(LABELS), alpha=float(a), impl=impl)[:, i] for i, a in enumerate(alpha)]
    torch.testing.assert_close(by_class, torch.stack(columns, 1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_cross_entropy_is_torchs(smoothing, weighed, impl):
    alpha = torch.tensor([0.5, 1.0, 2.0, 0.1]) if weighed else None
    ours = partial(focaldet.cross_entropy, labels=CLASSES, alpha=alpha, label_smoothing=smoothing, impl=impl)
    theirs = partial(F.cross_entropy, target=CLASSES, weight=alpha, label_smoothing=smoothing)
    torch.testing.assert_close(ours(Z), theirs(Z, reduction="none"))
    torch.testing.assert_close(
        gradient(lambda x: ours(x, reduction="sum"), Z), gradient(lambda x: theirs(x, reduction="sum"), Z)
    )
    soft = SOFT / SOFT.sum(1, keepdim=True)
    torch.testing.assert_close(
        focaldet.cross_entropy(Z, soft, alpha=alpha, label_smoothing=smoothing, reduction="sum"),
        F.cross_entropy(Z, soft, weight=alpha, label_smoothing=smoothing, reduction="sum"),
    )


TENSOR = torch.zeros(2, 3)
MAP = torch.zeros(1, 3, 2, 2)
SITES = SparseTargets(torch.zeros(1, 8, dtype=torch.int64))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: focaldet.sigmoid_focal_loss([[0.0]], TENSOR), TypeError, "logits: expected a tensor, got a list"),
        (lambda: focaldet.sigmoid_focal_loss([], SparseTargets(LABELS)), TypeError, "at least one map"),
        (lambda: focaldet.sigmoid_focal_loss(TENSOR, [[0.0]]), TypeError, "targets: expected a tensor, got a list"),
        (lambda: focaldet.sigmoid_focal_loss(TENSOR, TENSOR, 1.5), ValueError, r"alpha: .* in \[0, 1\].*1\.5"),
        (lambda: focaldet.sigmoid_focal_loss(TENSOR, TENSOR, gamma=-1), ValueError, "gamma"),
        (lambda: focaldet.sigmoid_focal_loss(TENSOR, TENSOR, gamma=torch.ones(3)), TypeError, "gamma: expected a num"),
        (lambda: focaldet.quality_focal_loss(TENSOR, TENSOR, beta=math.nan), ValueError, "beta"),
        (lambda: focaldet.sigmoid_focal_loss(TENSOR, SparseTargets(torch.zeros(2))), TypeError, "expected integers"),
        (lambda: focaldet.cross_entropy(TENSOR, [0, 1]), TypeError, "labels: expected a tensor of integers, got a l"),
        (lambda: focaldet.cross_entropy(TENSOR, torch.zeros(2).bool()), TypeError, "expected integers, got torch.bool"),
        (lambda: focaldet.cross_entropy(TENSOR, CLASSES[:2], label_smoothing=1.0), ValueError, "label_smoothing"),
        (lambda: focaldet.cross_entropy(TENSOR, CLASSES[:2], alpha=-1.0), ValueError, "alpha"),
        (lambda: focaldet.cross_entropy(TENSOR, TENSOR, impl="fused"), ValueError, "impl='fused'"),
        (lambda: focaldet.cross_entropy(TENSOR, TENSOR, impl="nonsense"), ValueError, "impl"),
        (lambda: focaldet.cross_entropy(TENSOR, TENSOR, ignore_index=0), ValueError, "ignore_index"),
        (lambda: focaldet.cross_entropy(TENSOR, TENSOR, inplace_grad=True), ValueError, "inplace_grad"),
        (lambda: focaldet.sigmoid_focal_loss(TENSOR, TENSOR, weight=[1.0]), TypeError, "weight"),
        (
            lambda: focaldet.sigmoid_focal_loss(TENSOR, TENSOR, reduction="sum", normalizer=0),
            ValueError,
            "normalizer: expected a number > 0",
        ),
        (lambda: focaldet.quadratic_loss(TENSOR, torch.zeros(3)), ValueError, r"targets: expected shape \(2, 3\)"),
        (lambda: focaldet.generalized_focal_loss(TENSOR, TENSOR, torch.zeros(3)), ValueError, "targets: expected sh"),
        (lambda: focaldet.sigmoid_focal_loss(TENSOR, TENSOR.to("meta")), ValueError, "targets: on meta.*move it"),
        (lambda: focaldet.giou_loss(BOXES, BOXES.to("meta")), ValueError, "on meta.*move it"),
        (lambda: focaldet.sigmoid_focal_loss(TENSOR, TENSOR, gamma=math.inf), ValueError, "gamma: expected a finite"),
        (lambda: focaldet.sigmoid_focal_loss(TENSOR, TENSOR, gamma="2"), TypeError, "gamma: .* got a str"),
        (lambda: focaldet.sigmoid_focal_loss(TENSOR.numpy(), TENSOR), TypeError, "logits: expected a tensor"),
        (lambda: focaldet.sigmoid_focal_loss(TENSOR, TENSOR.numpy()), TypeError, "targets: .* got a ndarray"),
        (lambda: focaldet.sigmoid_focal_loss(TENSOR, SparseTargets([0, 1])), TypeError, "labels: .* got a list"),
        (lambda: focaldet.sigmoid_focal_loss(TENSOR, SparseTargets(CLASSES[:2], 0.5)), TypeError, "targets.quality:"),
        (lambda: focaldet.sigmoid_focal_loss(TENSOR, TENSOR, [0.1] * 3), TypeError, "alpha: .* got a list"),
        (lambda: focaldet.sigmoid_focal_loss(TENSOR, TENSOR, SOFT[0]), ValueError, r"alpha: .* 3 classes, .* \(4,\)"),
        (lambda: focaldet.sigmoid_focal_loss(TENSOR, TENSOR, TENSOR), ValueError, r"alpha: .* 3 classes, .* \(2, 3\)"),
        (lambda: focaldet.cross_entropy(TENSOR, TENSOR, alpha=SOFT[0]), ValueError, r"alpha: .* 3 classes, .* \(4,\)"),
        (lambda: focaldet.sigmoid_focal_loss(TENSOR, TENSOR, TENSOR[0] * 1j), TypeError, "alpha: .* real numbers"),
        (lambda: focaldet.quality_focal_loss(TENSOR, TENSOR, weight=TENSOR * 1j), TypeError, "weight: .* real numbers"),
        (lambda: focaldet.quality_focal_loss(TENSOR, TENSOR, weight=TENSOR[:, 0]), ValueError, r"weight: .*\(2, 3\)"),
        (lambda: focaldet.cross_entropy(TENSOR, TENSOR, weight=TENSOR[:, :1]), ValueError, r"weight: .* \(2,\)"),
        (lambda: focaldet.cross_entropy(TENSOR, CLASSES[:2], weight=TENSOR), ValueError, r"weight: .* \(2,\)"),
        (lambda: focaldet.quadratic_loss(TENSOR, TENSOR, weight=TENSOR[None]), ValueError, r"weight: .* \(2, 3\)"),
        (lambda: focaldet.giou_loss(BOXES, BOXES, weight=TENSOR), ValueError, r"weight: .* against \(3,\), got"),
        (lambda: focaldet.iou_loss(BOXES, BOXES, weight=[1, 1, 1]), TypeError, "weight: .* got a list"),
        (lambda: focaldet.quadratic_loss(TENSOR, TENSOR, weight="1"), TypeError, "weight: .* got a str"),
        (lambda: focaldet.iou_loss(BOXES, BOXES, reduction="sum", normalizer=[3]), TypeError, "normalizer: .* a list"),
        (lambda: focaldet.iou_loss(BOXES, BOXES, reduction="sum", normalizer="3"), TypeError, "normalizer: .* a str"),
        (
            lambda: focaldet.iou_loss(BOXES, BOXES, reduction="sum", normalizer=torch.tensor(1j)),
            TypeError,
            "normalizer: expected a real number",
        ),
        (lambda: focaldet.cross_entropy(TENSOR, CLASSES[:2], ignore_index=1.0), TypeError, "ignore_index: .* a float"),
        (lambda: focaldet.cross_entropy(TENSOR, CLASSES[:2], ignore_index=None), TypeError, "ignore_index: .* None"),
        (
            lambda: focaldet.cross_entropy(TENSOR, CLASSES[:2], label_smoothing=TENSOR[0, 0]),
            TypeError,
            "label_smoothing: expected a number, got a Tensor",
        ),
        (lambda: focaldet.cross_entropy(TENSOR[:, :0], CLASSES[:2]), ValueError, r"at least 1 class, .* \(2, 0\)"),
        (lambda: focaldet.cross_entropy(TENSOR[0, 0], CLASSES[0]), ValueError, r"at least 1 class, got shape \(\)"),
        (lambda: focaldet.distribution_focal_loss(TENSOR[:, :1], SOFT[:2, 0]), ValueError, "at least 2 bins"),
        (lambda: focaldet.distribution_focal_loss(TENSOR, SOFT[0, :2] - 1), ValueError, r"^targets: expected 0 \.\. 2"),
        (lambda: focaldet.distribution_focal_loss(TENSOR, TENSOR[:, 0] / 0), ValueError, "for 3 bins, got -?nan"),
        (lambda: focaldet.distillation_loss(TENSOR, TENSOR[:1]), ValueError, r"^teacher_logits: expected shape \(2, 3"),
        (lambda: focaldet.distillation_loss(TENSOR, TENSOR.to("meta")), ValueError, "teacher_logits: on meta.*move it"),
        (lambda: focaldet.distillation_loss(TENSOR, [0.0]), TypeError, "teacher_logits: expected a tensor, got a list"),
        (lambda: focaldet.distillation_loss(TENSOR, TENSOR, temperature=0), ValueError, "temperature: .* > 0, got 0"),
        (lambda: focaldet.distillation_loss(TENSOR, TENSOR, temperature="1"), TypeError, "temperature: .* got a str"),
        (lambda: focaldet.DistillationLoss(temperature=-1.0), ValueError, "temperature"),
        (lambda: focaldet.sigmoid_focal_loss(TENSOR, SparseTargets(CLASSES[:2])), ValueError, r"^labels: .* for 3 cl"),
        (lambda: focaldet.cross_entropy(TENSOR, CLASSES[:2]), ValueError, r"^labels: expected 0 \.\. 2 .* got 3$"),
        (lambda: focaldet.sigmoid_focal_loss([MAP, MAP.double()], SITES), ValueError, "maps of one dtype, got "),
        (lambda: focaldet.sigmoid_focal_loss([MAP, MAP.to("meta")], SITES), ValueError, "on meta.*move it"),
        (lambda: focaldet.sigmoid_focal_loss([MAP[..., :0]], SITES), ValueError, "targets.labels: expected"),
        (lambda: focaldet.sigmoid_focal_loss([MAP], SparseTargets(CLASSES[0])), ValueError, r"labels: .* got \(\)"),
        (lambda: focaldet.SigmoidFocalLoss(gamma=-1.0), ValueError, "gamma"),
        (lambda: focaldet.CrossEntropy(label_smoothing=2.0), ValueError, "label_smoothing"),
        (lambda: focaldet.QualityFocalLoss(impl="fast"), ValueError, "impl"),
    ],
)  # fmt: skip
def test_what_no_loss_can_take_is_refused_in_one_sentence(call, error, words):
    with unchecked_shapes(), pytest.raises(error, match=words) as caught:
        call()
    assert ".cpp" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_targets_may_be_integers_or_truth_values(dtype):
    hard = (SOFT > 0.5).to(dtype)
    for loss in (focaldet.binary_cross_entropy, focaldet.quality_focal_loss, focaldet.quadratic_loss):
        torch.testing.assert_close(loss(Z, hard), loss(Z, hard.float()))


def test_alpha_of_a_module_is_part_of_its_state_and_may_be_a_parameter():
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    state = focaldet.SoftmaxFocalLoss(alpha=weights).state_dict()
    with torch.device("meta"):
        module = focaldet.SoftmaxFocalLoss(alpha=weights.to("meta"))
    module.to_empty(device="cpu").load_state_dict(state)
    assert torch.equal(module.alpha, weights)
    learned = focaldet.SoftmaxFocalLoss(alpha=torch.nn.Parameter(weights), reduction="sum")
    learned(Z, CLASSES).backward()
    assert learned.alpha.grad is not None
    assert [name for name, _ in learned.named_parameters()] == ["alpha"]


@pytest.mark.slow  # the first use of torch's compiler takes seconds
def test_one_graph_serves_every_normaliser():
    import torch._dynamo

    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    step = torch.compile(
        lambda z, y, n: focaldet.sigmoid_focal_loss(z, y, reduction="sum", normalizer=n), backend=backend
    )
    for n in range(1, 9):
        found = step(Z, SOFT, n + 0.5)
        torch.testing.assert_close(found, focaldet.sigmoid_focal_loss(Z, SOFT, reduction="sum", normalizer=n + 0.5))
    assert len(graphs) <= 2


def test_a_softmax_over_50_000_classes_errs_no_more_than_torchs():
    z = torch.randn(8, 50_000, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 50_000, (8,), generator=torch.Generator().manual_seed(1))
    true = gradient(lambda x: F.cross_entropy(x, labels, reduction="sum"), z.double())
    errors = [
        (gradient(lambda x, loss=loss: loss(x, labels, reduction="sum"), z).double() - true).abs().max()
        for loss in (focaldet.cross_entropy, F.cross_entropy)
    ]
    assert errors[0] <= 1.5 * errors[1]


def test_torch_func_goes_through_the_convolution_of_a_detector():
    from focaldet.models.conv3x3 import Conv3x3

    conv = Conv3x3(64, 64).to(memory_format=torch.channels_last)
    x = torch.randn(1, 64, 32, 32).to(memory_format=torch.channels_last)
    found = torch.func.grad(lambda t: conv(t).square().sum())(x)
    torch.testing.assert_close(found, gradient(lambda t: conv(t).square().sum(), x), rtol=1e-3, atol=1e-3)
