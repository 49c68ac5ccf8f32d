"""Error budget: against float64, a fused kernel's error is at most eager PyTorch's in its dtype plus an allowance."""

import pytest
import torch
from fused_cases import cases, needs_cpu_kernels, truth, value_and_grad

CASES = cases()
ALLOWANCE = 1e-6
"""Of 1 + the true value: 8 units in the last place of a float32 near 1. The polynomials of the kernels use about 2."""

HALF_ALLOWANCE = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""A gradient is rounded to the logits' dtype once: half a unit in its last place."""


def error(value: torch.Tensor, true: torch.Tensor) -> float:
    assert value.isfinite().all()
    return float(((value.double() - true).abs() / (1 + true.abs())).max())


@needs_cpu_kernels
@pytest.mark.parametrize("name", CASES)
def test_fused_errs_no_more_than_eager_in_float32(name):
    true, true_grad = truth(CASES[name], torch.float32)
    eager, eager_grad = value_and_grad(CASES[name], "reference")
    fused, fused_grad = value_and_grad(CASES[name], "fused")
    assert error(fused, true) <= error(eager, true) + ALLOWANCE
    assert error(fused_grad, true_grad) <= error(eager_grad, true_grad) + ALLOWANCE


@needs_cpu_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [n for n in CASES if n != "giou"])
def test_fused_on_half_logits_errs_as_float32_and_rounds_the_gradient_once(name, dtype):
    true, true_grad = truth(CASES[name], dtype)
    eager, _ = value_and_grad(CASES[name], "reference", dtype)
    fused, fused_grad = value_and_grad(CASES[name], "fused", dtype)
    assert fused.dtype == torch.float32
    assert fused_grad.dtype == dtype
    assert error(fused, true) <= error(eager, true) + ALLOWANCE
    assert error(fused_grad, true_grad) <= HALF_ALLOWANCE[dtype] + ALLOWANCE


@needs_cpu_kernels
@pytest.mark.parametrize("name", ["sigmoid_focal-sparse-2", "quality_focal-sparse-2", "softmax_focal-2-0.0"])
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_nan_in_gives_nan_out_and_nothing_else(name, reduction):
    case = cases()[name]
    clean, clean_grad = value_and_grad(case, "fused")
    row = int((case.logits.abs() < 100).all(1).nonzero()[3])
    case.logits[row, 2] = float("nan")
    loss, grad = value_and_grad(case, "fused", reduction=reduction)
    ignored = bool((clean_grad[row] == 0).all())
    assert not ignored
    if reduction == "sum":
        assert loss.isnan()
        return
    assert loss[row].isnan().any()
    assert grad[row, 2].isnan()
    others = torch.arange(len(grad)) != row
    assert torch.equal(grad[others], clean_grad[others])
    assert torch.equal(loss[others], clean[others])


@needs_cpu_kernels
@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("exponent", [0, 1, 1.5, 2])
def test_a_nan_logit_gives_a_nan_gradient_in_every_sigmoid_loss(kind, exponent):
    for name, case in cases(exponents=(exponent,)).items():
        if f"-{kind}" in name:
            case.logits[:] = float("nan")
            if kind == "dense":
                loss, grad = value_and_grad(case, "fused")
                assert loss.isnan().all(), name
                assert grad.isnan().all(), name
            else:
                loss, grad = value_and_grad(case, "fused")
                eager, eager_grad = value_and_grad(case, "reference")
                assert torch.equal(loss.isnan(), eager.isnan()), name  # ignored rows stay 0
                assert torch.equal(grad.isnan(), eager_grad.isnan()), name


@needs_cpu_kernels
def test_infinite_logits_are_not_hidden():
    """BCE of an infinite logit on the wrong side is infinite; nothing turns it into a finite number."""
    case = cases()["binary_cross_entropy-hard"]
    case.logits[:] = float("inf")
    loss, _ = value_and_grad(case, "fused", reduction="sum")
    assert not loss.isfinite()


@needs_cpu_kernels
def test_a_sum_of_more_than_2_to_the_24_elements_loses_nothing():
    """2^24 + 2^22 losses of log 2: a float32 counter would have stuck at 2^24."""
    from focaldet import SparseTargets, binary_cross_entropy

    n = 2**24 + 2**22
    loss = binary_cross_entropy(
        torch.zeros(n // 64, 64, dtype=torch.bfloat16), SparseTargets(torch.full((n // 64,), -1)), reduction="sum"
    )
    assert float(loss) == pytest.approx(n * 0.6931471805599453, rel=2e-7)
