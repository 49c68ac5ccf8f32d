"""Each loss under each transform of torch: the numbers are right, by kernel or formula as docs/losses.md says."""

import inspect
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

import focaldet
from focaldet import SparseTargets, kernels
from focaldet.kernels import ops
from focaldet.losses.numerics import widen

PAGE = Path(__file__).parents[1] / "docs" / "losses.md"

Z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
SOFT = torch.rand(6, 4, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 3, -1, 2, -2, 1])
CLASSES = torch.tensor([0, 3, 1, 2, -100, 1])
SHARES = SOFT / SOFT.sum(1, keepdim=True)
POSITIONS = torch.tensor([0.0, 0.5, 3.0, 2.2, 1.0, 1.7])
BOXES = torch.tensor([[0.0, 0, 2, 2], [1, 1, 4, 3], [0, 0, 1, 5]])
OTHERS = BOXES + 0.3

Loss = Callable[..., Tensor]


def of_logits(log_probs_loss: Loss) -> Loss:
    """The general form takes log-probabilities."""

    def loss(z: Tensor, **options: Any) -> Tensor:
        z = widen(z)
        return log_probs_loss(F.logsigmoid(-z), F.logsigmoid(z), SOFT, **options)

    return loss


def summed(loss_and_sums: Callable[..., tuple[Tensor, Tensor]]) -> Loss:
    """An equalized loss, which is always a sum, without the sums of its gradients."""
    gradients = torch.tensor([[1.0, 1, 2, 1], [1, 4, 2, 9]])
    targets = SparseTargets(LABELS, SOFT[:, 0])

    def loss(z: Tensor, reduction: str) -> Tensor:
        assert reduction == "sum"
        return loss_and_sums(z, targets, gradients.to(z.device))[0]

    return loss


FAMILIES: dict[str, dict[str, tuple[Loss, Tensor]]] = {
    "sigmoid": {
        "binary": (partial(focaldet.binary_cross_entropy, targets=SOFT), Z),
        "focal": (partial(focaldet.sigmoid_focal_loss, targets=SOFT), Z),
        "focal, sparse": (partial(focaldet.sigmoid_focal_loss, targets=SparseTargets(LABELS)), Z),
        "quality focal": (partial(focaldet.quality_focal_loss, targets=SOFT), Z),
        "varifocal": (partial(focaldet.varifocal_loss, targets=SOFT), Z),
        "matchability": (partial(focaldet.matchability_aware_loss, targets=SOFT), Z),
        "iou-aware": (partial(focaldet.iou_aware_bce_loss, targets=SOFT), Z),
    },
    "softmax": {
        "cross entropy": (partial(focaldet.cross_entropy, labels=CLASSES), Z),
        "softmax focal": (partial(focaldet.softmax_focal_loss, labels=CLASSES, label_smoothing=0.1), Z),
        "distribution": (partial(focaldet.distribution_focal_loss, targets=POSITIONS), Z),
        "distillation": (partial(focaldet.distillation_loss, teacher_logits=3 * SOFT), Z),
    },
    "boxes": {
        name: (partial(getattr(focaldet, f"{name}_loss"), target_boxes_xyxy=OTHERS), BOXES)
        for name in ("giou", "iou", "diou", "ciou", "eiou", "siou")
    },
    "equalized": {name: (summed(getattr(focaldet, f"equalized_{name}_loss")), Z) for name in ("focal", "quality")},
    "others": {
        "quadratic": (partial(focaldet.quadratic_loss, targets=SOFT), Z),
        "general": (of_logits(focaldet.generalized_focal_loss), Z),
        "cross entropy with shares": (partial(focaldet.cross_entropy, labels=SHARES), Z),
    },
}

Result = tuple[object, Callable[[], object]]
"""What a transform gives, and what computes what it ought to give."""


def gradient(total: Loss, z: Tensor) -> Tensor:
    z = z.clone().requires_grad_()
    (grad,) = torch.autograd.grad(total(z), z)
    return grad


def backward_twice(total: Loss, z: Tensor) -> Result:
    x = z.clone().requires_grad_()
    value = total(x)
    value.backward(retain_graph=True)
    value.backward()
    wide = z.double()
    return x.grad, lambda: 2 * gradient(total, wide).float()


def second_derivative(total: Loss, z: Tensor) -> Result:
    def twice(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(total(x), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        return second

    return twice(z), lambda: twice(z.double()).float()


def gradients_in_a_batch(total: Loss, z: Tensor) -> Result:
    x = z.clone().requires_grad_()
    (batch,) = torch.autograd.grad(total(x), x, torch.tensor([1.0, 2.0]), is_grads_batched=True)
    jacobian = torch.autograd.functional.jacobian(total, z, vectorize=True)
    return (batch, jacobian), lambda: (torch.stack([gradient(total, z), 2 * gradient(total, z)]), gradient(total, z))


def checkpointed(total: Loss, z: Tensor) -> Result:
    from torch.utils.checkpoint import checkpoint

    x = z.clone().requires_grad_()
    checkpoint(total, x, use_reentrant=False).backward()
    return x.grad, lambda: gradient(total, z)


def func_grad(total: Loss, z: Tensor) -> Result:
    return (torch.func.grad(total)(z), torch.func.jacrev(total)(z)), lambda: (gradient(total, z),) * 2


def vmap(total: Loss, z: Tensor) -> Result:
    several = torch.stack([z, z + 0.1])
    found = torch.func.vmap(total)(several), torch.func.vmap(torch.func.grad(total))(several)
    return found, lambda: tuple(torch.stack([f(x) for x in several]) for f in (total, partial(gradient, total)))


def forward_mode(total: Loss, z: Tensor) -> Result:
    ones = torch.ones_like(z)
    _, tangent = torch.func.jvp(total, (z,), (ones,))
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(total(forward_ad.make_dual(z, ones))).tangent
    found = tangent, dual, torch.func.jacfwd(total)(z)
    return found, lambda: (gradient(total, z).sum(), gradient(total, z).sum(), gradient(total, z))


def hessian(total: Loss, z: Tensor) -> Result:
    found = torch.func.hessian(total)(z)
    return found, lambda: torch.autograd.functional.hessian(total, z.double()).float()


def linearized(total: Loss, z: Tensor) -> Result:
    _, derivative = torch.func.linearize(total, z)
    return derivative(torch.ones_like(z)), lambda: gradient(total, z).sum()


def compiled(total: Loss, z: Tensor) -> Result:
    torch.compiler.reset()
    found = gradient(torch.compile(total, fullgraph=True, backend="aot_eager"), z)
    return found, lambda: gradient(total, z)


def compiled_transforms(total: Loss, z: Tensor) -> Result:
    torch.compiler.reset()
    several = torch.stack([z, z + 0.1])
    per_sample = torch.func.vmap(torch.func.grad(total))
    found = torch.compile(per_sample, fullgraph=True, backend="aot_eager")(several)
    return found, lambda: torch.stack([gradient(total, x) for x in several])


def exported(total: Loss, z: Tensor) -> Result:
    class Criterion(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return total(x)

    return torch.export.export(Criterion(), (z,)).module()(z), lambda: total(z)


def traced(total: Loss, z: Tensor) -> Result:
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(total)(z)(z), lambda: total(z)


def fake(total: Loss, z: Tensor) -> Result:
    from torch._subclasses.fake_tensor import FakeTensorMode

    found = []
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        with FakeTensorMode(allow_non_fake_inputs=True):
            x = torch.empty(z.shape, dtype=dtype, requires_grad=True)
            value = total(x)
            value.backward()
        found.append((tuple(value.shape), tuple(x.grad.shape), x.grad.dtype == dtype))
    return found, lambda: [((), tuple(z.shape), True)] * 4


def autocast(total: Loss, z: Tensor) -> Result:
    x = z.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = total(x)
    value.backward()
    return (value, x.grad), lambda: (total(z), gradient(total, z))


def float16_with_a_scaler(total: Loss, z: Tensor) -> Result:
    x = z.half().requires_grad_()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(total(x)).backward()
    held = x.detach().float()
    return x.grad.float() / 1024, lambda: gradient(total, held).half().float()


TRANSFORMS: dict[str, Callable[[Loss, Tensor], Result]] = {
    "`backward()`, several times with `retain_graph=True`": backward_twice,
    "second derivatives, `create_graph=True`, by the formula": second_derivative,
    "`is_grads_batched=True`, `jacobian(vectorize=True)`": gradients_in_a_batch,
    "`torch.utils.checkpoint`": checkpointed,
    "`torch.func.grad`, `jacrev`": func_grad,
    "`vmap`, `vmap(grad)`": vmap,
    "forward mode: `jvp`, `jacfwd`, `forward_ad`": forward_mode,
    "`hessian`": hessian,
    "`linearize`, whose derivative the formula gives": linearized,
    "`torch.compile(fullgraph=True)`": compiled,
    "`torch.compile` of `vmap(grad)`": compiled_transforms,
    "`torch.export`": exported,
    "`make_fx`": traced,
    "`FakeTensorMode`": fake,
    "`torch.autocast` to bfloat16": autocast,
    "float16 under `GradScaler`": float16_with_a_scaler,
}
SLOW = (compiled, compiled_transforms, linearized, hessian)


@pytest.fixture
def kernel_calls(monkeypatch) -> list[str]:
    """The fused kernels that were called, or written into a graph."""
    calls: list[str] = []
    run = ops.run

    def counted(op: str, *args: object, **options: object) -> Tensor:
        calls.append(op)
        return run(op, *args, **options)

    monkeypatch.setattr(ops, "run", counted)
    run_equalized = ops.run_equalized

    def counted_equalized(*args: object) -> tuple[Tensor, Tensor]:
        calls.append("equalized_loss")
        return run_equalized(*args)

    monkeypatch.setattr(ops, "run_equalized", counted_equalized)
    return calls


def described() -> dict[str, list[str]]:
    """The table of docs/losses.md: transform -> what computes the losses of each family."""
    section = PAGE.read_text().split("## Under transforms\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", section, re.M)]
    assert rows[0][1:] == list(FAMILIES)
    return {name: cells for name, *cells in rows[2:]}


def test_the_page_lists_every_transform():
    assert list(described()) == list(TRANSFORMS)


@pytest.mark.skipif(kernels.available()["cpu"] is not None, reason="needs the C++ kernels")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (use in SLOW)) for name, use in TRANSFORMS.items()]
)
@pytest.mark.filterwarnings(
    "ignore:There is a performance drop",
    "ignore:.torch.jit.script. is deprecated",
    "ignore:Attempted to insert a get_attr Node",
)
def test_every_loss_is_right_and_computed_as_the_page_says(name, kernel_calls, monkeypatch):
    # The tests' own check of shapes, which torch's compiler cannot trace.
    monkeypatch.setattr(SparseTargets, "__init__", inspect.unwrap(SparseTargets.__init__))
    close = partial(torch.testing.assert_close, rtol=2e-4, atol=2e-5)
    cells = []
    for family, told in zip(FAMILIES.values(), described()[name], strict=True):
        computed = set()
        for loss, z in family.values():
            total = partial(loss, reduction="sum")
            kernel_calls.clear()
            if told == "–":
                with pytest.raises(RuntimeError):
                    TRANSFORMS[name](total, z)
                computed.add("–")
                continue
            found, expected = TRANSFORMS[name](total, z)
            computed.add("kernel" if kernel_calls else "formula")
            close(found, expected())
        cells.append("/".join(sorted(computed)))
    assert described()[name] == cells
