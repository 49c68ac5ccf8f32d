"""The operators as citizens of PyTorch: derivatives of all orders, tracing, transforms, reuse."""

import inspect

import pytest
import torch
from fused_cases import Case, cases, needs_cpu_kernels, value_and_grad

import focaldet
from focaldet import SparseTargets

CASES = cases(rows=80, columns=5, exponents=(2,))
SOME = ["sigmoid_focal-sparse-2", "quality_focal-dense-2", "softmax_focal-2-0.1", "distribution_focal"]
SOME += ["distillation-10", "giou"]
pytestmark = needs_cpu_kernels


def moderate(name):
    """Logits whose losses are small enough to compare absolutely; boxes as they are."""
    return CASES[name].logits.clone() if name == "giou" else CASES[name].logits.clamp(-6, 6)


@pytest.mark.slow  # the first use of torch's compiler takes seconds
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # tracing looks at it
@pytest.mark.parametrize("name", SOME)
def test_opcheck_accepts_the_operators(name):
    from focaldet.functional import dispatch
    from focaldet.kernels import ops

    seen = []

    def note(op, inplace_grad, logits, *args):
        plain = [dispatch._plain(x) if isinstance(x, torch.Tensor) else x for x in args]
        for grad_scale in (None, torch.tensor(64.0)):
            place = ops._GRAD_SCALE[op]
            seen.append((op, logits.contiguous(), [*plain[:place], grad_scale, *plain[place:]]))
        return fused(op, inplace_grad, logits, *args)

    from focaldet.functional import boxes, sigmoid, softmax

    fused = dispatch.fused_loss
    with pytest.MonkeyPatch.context() as patch:
        for module in (sigmoid, softmax, boxes):
            patch.setattr(module, "fused_loss", note)
        for reduction in ("none", "sum"):
            CASES[name].loss(CASES[name].logits, impl="fused", reduction=reduction)
    for op, logits, args in seen:
        logits = logits.detach().clamp(-50, 50).requires_grad_()
        torch.library.opcheck(getattr(torch.ops.focaldet, op), (logits, *args, True))
        torch.library.opcheck(getattr(torch.ops.focaldet, op), (logits.detach(), *args, False))
        inplace = getattr(torch.ops.focaldet, f"{op}_inplace")
        torch.library.opcheck(inplace, (logits.detach().clone(), *args), test_utils="test_schema")
        torch.library.opcheck(inplace, (logits.detach().clone(), *args), test_utils="test_faketensor")


@pytest.mark.parametrize("name", SOME)
def test_second_derivatives_are_those_of_the_formula(name):
    def hessian_times_ones(impl):
        z = moderate(name).requires_grad_()
        loss = CASES[name].loss(z, impl=impl, reduction="mean") ** 2
        (first,) = torch.autograd.grad(loss, z, create_graph=True)
        return torch.autograd.grad(first.sum(), z)[0]

    torch.testing.assert_close(hessian_times_ones("fused"), hessian_times_ones("reference"))


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_a_loss_that_is_used_twice_and_scaled(name, reduction):
    """The gradient of the loss is not always 1, and the stored derivative must outlive the first backward."""

    def grads(impl):
        z = moderate(name).requires_grad_()
        loss = CASES[name].loss(z, impl=impl, reduction=reduction)
        total = (loss * torch.arange(1, loss.numel() + 1).view_as(loss)).sum()
        total.backward(retain_graph=True)
        first = z.grad.clone()
        loss.sum().backward(retain_graph=True)
        loss.sum().backward()
        return first, z.grad

    for fused, reference in zip(grads("fused"), grads("reference"), strict=True):
        torch.testing.assert_close(fused, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SOME[:5])
def test_inplace_grad_writes_the_same_gradient_over_the_logits(name):
    case = CASES[name]
    _, expected = value_and_grad(case, "fused", reduction="sum")
    for scale in (1.0, 3.0):
        leaf = case.logits.clone().requires_grad_()
        logits = leaf * 1.0
        loss = case.loss(logits, impl="fused", reduction="sum", inplace_grad=True)
        (scale * loss).backward()
        torch.testing.assert_close(leaf.grad, scale * expected)
        assert logits.data_ptr() != leaf.data_ptr()
        torch.testing.assert_close(logits.detach(), scale * expected)


def test_inplace_grad_refuses_a_second_backward_and_leaves_evaluation_alone():
    z = torch.randn(6, 3, requires_grad=True)
    labels = SparseTargets(torch.tensor([0, 1, 2, -1, -2, 0]))
    before = z.detach().clone()
    with torch.no_grad():
        focaldet.sigmoid_focal_loss(z, labels, inplace_grad=True)
    assert torch.equal(z.detach(), before)
    loss = focaldet.sigmoid_focal_loss(z * 1, labels, reduction="sum", inplace_grad=True, impl="fused")
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only one backward"):
        loss.backward()


def test_inplace_grad_is_caught_where_autograd_still_needs_the_logits():
    z = torch.randn(4, 3, requires_grad=True)
    logits = z.exp()  # its backward needs its own result
    loss = focaldet.sigmoid_focal_loss(
        logits, SparseTargets(torch.zeros(4, dtype=torch.long)), reduction="sum", inplace_grad=True, impl="fused"
    )
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_no_gradient_is_computed_when_none_is_needed():
    z = torch.randn(4, 1, 3)
    labels = torch.zeros(4, 3, dtype=torch.long)
    args = (labels, None, None, None, None, None, None, 1, 2.0, 0.25, 1.0, True)
    assert torch.ops.focaldet.sigmoid_loss(z, *args, False)[1].numel() == 0
    assert torch.ops.focaldet.sigmoid_loss(z, *args, True)[1].shape == z.shape


@pytest.mark.slow  # the first use of torch's compiler takes seconds
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # tracing looks at it
@pytest.mark.parametrize("name", ["sigmoid_focal-sparse-2", "softmax_focal-2-0.1", "giou"])
def test_compile_of_the_whole_graph_equals_eager(name, monkeypatch):
    # torch cannot trace the check of shapes that the tests add to a dataclass.
    monkeypatch.setattr(SparseTargets, "__init__", inspect.unwrap(SparseTargets.__init__))
    case = CASES[name]
    inplace = {} if name == "giou" else {"inplace_grad": True}

    @torch.compile(fullgraph=True)
    def step(z):
        return case.loss(z * 1.5, impl="fused", reduction="sum", normalizer=7, **inplace) * 2

    z = case.logits.clamp(-50, 400).clone().requires_grad_()
    loss = step(z)
    loss.backward()
    eager = Case(case.loss, case.logits.clamp(-50, 400) * 1.5)
    value, grad = value_and_grad(eager, "fused", reduction="sum", normalizer=7)
    torch.testing.assert_close(loss.detach(), 2 * value)
    torch.testing.assert_close(z.grad, 3 * grad)


@pytest.mark.slow
def test_export_keeps_one_node_for_the_loss():
    class Criterion(torch.nn.Module):
        def forward(self, logits, labels):
            return focaldet.sigmoid_focal_loss(logits, SparseTargets(labels), reduction="sum")

    args = (torch.randn(12, 4), torch.randint(-2, 4, (12,)))
    program = torch.export.export(Criterion(), args)
    assert sum("focaldet.sigmoid_loss" in str(node.target) for node in program.graph.nodes) == 1
    torch.testing.assert_close(program.module()(*args), Criterion()(*args))


def test_functional_transforms_take_the_formula():
    z = torch.randn(5, 4, 3)
    y = torch.rand(5, 4, 3)

    def loss(z, y):
        return focaldet.quality_focal_loss(z, y, reduction="sum")

    per_image = torch.func.vmap(torch.func.grad(loss))(z, y)
    torch.testing.assert_close(per_image, torch.stack([torch.func.grad(loss)(a, b) for a, b in zip(z, y, strict=True)]))
    with pytest.raises(ValueError, match=r"inside torch\.func"):
        torch.func.grad(lambda z: focaldet.quality_focal_loss(z, y[0], reduction="sum", impl="fused"))(z[0])


def test_autocast_computes_the_loss_of_half_logits_in_float32():
    layer = torch.nn.Linear(8, 4)
    labels = SparseTargets(torch.tensor([0, 3, -1]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = layer(torch.ones(3, 8))
        loss = focaldet.sigmoid_focal_loss(logits, labels, reduction="sum", impl="fused")
    loss.backward()
    assert logits.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert layer.weight.grad.isfinite().all()
