"""Run with TRITON_INTERPRET=1: the Triton kernels, interpreted, against float64. Started by test_triton.py."""

import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from fused_cases import cases, truth, value_and_grad
from test_fused_accuracy import ALLOWANCE, HALF_ALLOWANCE, error
from torch import Tensor

import focaldet
from focaldet import SparseTargets
from focaldet.functional import boxes, dispatch, sigmoid, softmax
from focaldet.kernels import ops


class Interpreted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, op: str, args: list[Any], *logits: Tensor) -> Tensor:
        from focaldet.kernels import triton_ops  # not on import: without TRITON_INTERPRET it needs a GPU

        def run(*args: Any) -> tuple[Tensor, list[Tensor]]:
            if op == ops.PYRAMID:
                return triton_ops.pyramid_loss([x.detach() for x in logits], *args)
            loss, grad = triton_ops.loss_and_grad(op, logits[0].detach(), *args)
            return loss, [grad] if args[-1] or grad.numel() else []

        loss, ctx.grads = run(*args, True)
        at = ops._GRAD_SCALE[op]
        # With a normaliser, only the loss and its derivatives: the interpreter is slow.
        if op != ops.PYRAMID and args[at - 1] is not None:
            return loss
        again, none = run(*args, False)
        assert none == []
        assert torch.equal(loss.nan_to_num(-1), again.nan_to_num(-1))
        places = [x.detach().clone(memory_format=torch.preserve_format) for x in logits]
        if op == ops.PYRAMID:
            triton_ops.pyramid_loss_in_place(places, *args)
        else:
            triton_ops.loss_in_place(op, places[0], *args)
        for place, grad in zip(places, ctx.grads, strict=True):
            assert torch.equal(place.nan_to_num(-1), grad.nan_to_num(-1))
        if logits[0].dtype == torch.float32 and args[at - 1] is None and args[-2] == 1:
            large = run(*args[:at], torch.tensor(64.0), *args[at + 1 :], True)[1]
            triton_ops.multiply(large, torch.tensor(1 / 64))
            torch.testing.assert_close(large, ctx.grads, equal_nan=True)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(x * ops._over_classes(grad_loss, x).to(x.dtype) for x in ctx.grads)


def interpreted(op: str, inplace_grad: bool, logits: Tensor | list[Tensor], *args: Any) -> Tensor:
    plain = [dispatch._plain(x) if isinstance(x, Tensor) else x for x in args]
    place = ops._GRAD_SCALE[op]
    tensors = logits if op == ops.PYRAMID else [logits.contiguous()]
    return Interpreted.apply(op, [*plain[:place], None, *plain[place:]], *tensors)


def pyramids() -> Iterator[tuple[list[Tensor], SparseTargets]]:
    """Maps of several sizes in one memory format, one location among them; several programs for the first."""
    generator = torch.Generator().manual_seed(3)
    for anchors, num_classes in ((3, 10), (1, 1)):
        for last in (False, True):
            first = (27, 20) if num_classes == 1 else (9, 7)  # the interpreter is slow
            maps = [torch.randn(2, anchors * num_classes, *hw, generator=generator) for hw in (first, (2, 3), (1, 1))]
            if last:
                maps = [x.to(memory_format=torch.channels_last) for x in maps]
            sites = anchors * sum(x.shape[2] * x.shape[3] for x in maps)
            labels = torch.randint(-2, num_classes, (2, sites), generator=generator)
            yield maps, SparseTargets(labels, torch.rand(2, sites, generator=generator))


def check_autograd_of_a_pyramid() -> None:
    """First and second derivatives, in place and in float16, through the operator as CUDA has it."""
    from focaldet.kernels import triton_ops

    ops.LIBRARY.impl(ops.PYRAMID, triton_ops.pyramid_loss, "CPU")
    ops.LIBRARY.impl(f"{ops.PYRAMID}_inplace", triton_ops.pyramid_loss_in_place, "CPU")
    sigmoid.fused_loss = dispatch.fused_loss
    maps, target = next(pyramids())
    maps = [x[:, :, :2] for x in maps]  # the interpreter is slow
    sites = 3 * sum(x.shape[2] * x.shape[3] for x in maps)
    target = SparseTargets(target.labels[:, :sites], target.quality[:, :sites])

    def derivatives(dtype: torch.dtype, **options: Any) -> list[Tensor]:
        leaves = [x.to(dtype, copy=True).contiguous().requires_grad_() for x in maps]
        loss = focaldet.quality_focal_loss([x * 1 for x in leaves], target, reduction="sum", normalizer=70, **options)
        if options.get("inplace_grad"):
            return list(torch.autograd.grad(3 * loss, leaves))
        first = torch.autograd.grad(3 * loss, leaves, create_graph=dtype == torch.float32, retain_graph=True)
        if dtype != torch.float32:
            return list(first)
        again = torch.autograd.grad(2 * loss, leaves, retain_graph=True)
        return [*first, *again, *torch.autograd.grad(sum(x.square().sum() for x in first), leaves)]

    formula = derivatives(torch.float32, impl="reference")
    torch.testing.assert_close(derivatives(torch.float32, impl="fused"), formula)
    torch.testing.assert_close(derivatives(torch.float32, impl="fused", inplace_grad=True), formula[: len(maps)])
    for inplace_grad in (False, True):
        half = derivatives(torch.float16, impl="fused", inplace_grad=inplace_grad)
        torch.testing.assert_close([x.float() for x in half], formula[: len(maps)], rtol=5e-3, atol=1e-5)


def main() -> None:
    warnings.filterwarnings("ignore", module="triton")  # the interpreter's NumPy warns of every overflow and log 0
    for module in (sigmoid, softmax, boxes):
        module.fused_loss = interpreted
        module.use_fused = lambda impl, *_, **options: impl == "fused"

    count = 0
    for rows, columns, exponents, dtype, skipped in (
        # The interpreter is slow: targets of all kinds are tried with two exponents only.
        (61, 7, (0, 0.25, 1, 2), torch.float32, "(dense|hard)-[01]$"),
        (5, 300, (1.5,), torch.float32, "dense|hard"),
        (61, 7, (2,), torch.bfloat16, "dense|hard"),  # which is only read and written
    ):
        for name, case in cases(rows, columns, exponents=exponents).items():
            if name in ("iou", "diou", "ciou", "eiou", "siou"):
                continue  # Triton has no kernel for them
            if re.search(skipped, name):
                continue
            if name != "giou" or dtype == torch.float32:
                true, true_grad = truth(case, dtype)
                eager, eager_grad = value_and_grad(case, "reference", dtype)
                fused, fused_grad = value_and_grad(case, "fused", dtype)
                # The interpreter cuts a bfloat16 off where a GPU rounds it: twice the error.
                rounding = 2 * HALF_ALLOWANCE[dtype] if dtype != torch.float32 else error(eager_grad, true_grad)
                assert error(fused, true) <= error(eager, true) + ALLOWANCE, (name, dtype)
                assert error(fused_grad, true_grad) <= rounding + ALLOWANCE, (name, dtype)
                total, _ = value_and_grad(case, "fused", dtype, reduction="sum", normalizer=torch.tensor(3))
                torch.testing.assert_close(total.double(), true.sum() / 3, rtol=1e-5, atol=1e-5)
                count += 1

    maps = [torch.randn(2, 3 * 4, 5, 6), torch.randn(2, 3 * 4, 2, 3).to(memory_format=torch.channels_last)]
    target = SparseTargets(torch.randint(-2, 4, (2, 36 * 3)), torch.rand(2, 36 * 3))
    for weight in (torch.rand(2, 36 * 3, 1), torch.rand(4), torch.rand(2, 36 * 3, 4)):
        for alpha in (0.3, torch.rand(4)):
            results = [
                focaldet.sigmoid_focal_loss(maps, target, alpha, weight=weight, impl=impl)
                for impl in ("fused", "reference")
            ]
            torch.testing.assert_close(*results)

    sigmoid.in_one_launch = lambda maps: True
    for maps, target in pyramids():
        num_classes = maps[0].shape[1] * sum(x.shape[2] * x.shape[3] for x in maps) // target.labels.shape[1]
        sites = target.labels.shape
        for weight, alpha in (
            (None, 0.3),
            (torch.rand(num_classes), 0.3),
            (torch.rand(*sites, 1), torch.rand(num_classes)),
            (torch.rand(*sites, num_classes), 0.3),
        ):
            kwargs = {"weight": weight, "reduction": "sum", "normalizer": torch.tensor(3)}
            values = []
            for impl in ("fused", "reference"):
                leaves = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in maps]
                loss = focaldet.sigmoid_focal_loss(leaves, target, alpha, impl=impl, **kwargs)
                values.append((loss.detach(), *torch.autograd.grad(loss, leaves)))
            for ours, formula in zip(*values, strict=True):
                torch.testing.assert_close(ours, formula)
        count += 1

    masked = torch.tensor([[0.3, -torch.inf, 1.0], [torch.inf, 1.0, -torch.inf]])
    hard = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    for loss in (focaldet.sigmoid_focal_loss, focaldet.varifocal_loss, focaldet.matchability_aware_loss):
        for gamma in (0, 0.5, 1, 2):
            values = []
            for impl in ("fused", "reference"):
                leaf = masked.clone().requires_grad_()
                losses = loss(leaf, hard, gamma=gamma, impl=impl)
                values.append((losses.detach(), *torch.autograd.grad(losses.sum(), leaf)))
            for ours, formula in zip(*values, strict=True):
                torch.testing.assert_close(ours, formula)
        count += 1

    z = torch.zeros(4, 3)
    wrong = torch.tensor([0, 3, -3, 2**32 - 2])  # the last is IGNORED in its lower half
    assert focaldet.sigmoid_focal_loss(z, SparseTargets(wrong), impl="fused").isnan().all(1).tolist() == [0, 1, 1, 1]
    wrong = torch.tensor([0, 3, -3, -100])
    assert focaldet.softmax_focal_loss(z, wrong, impl="fused").isnan().tolist() == [0, 1, 1, 0]
    wrong = torch.tensor([0, 2.1, -0.1, float("nan")])
    assert focaldet.distribution_focal_loss(z, wrong, impl="fused").isnan().tolist() == [0, 1, 1, 1]
    z[1, 1] = float("nan")
    nan = focaldet.softmax_focal_loss(z, torch.tensor([0, 0, 1, -100]), impl="fused").isnan()
    assert nan.tolist() == [0, 1, 0, 0]
    check_autograd_of_a_pyramid()
    print(f"{count} cases agree")


if __name__ == "__main__":
    main()
