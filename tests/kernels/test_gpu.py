"""The Triton kernels on a GPU: correct, in two launches, without a wait, and as fast as docs/adr/0013 predicts."""

from functools import partial
from statistics import median
from typing import Any

import pytest
import torch
from fused_cases import Case, cases, truth, value_and_grad
from test_fused_accuracy import ALLOWANCE, HALF_ALLOWANCE, error
from torch import Tensor

import focaldet
from focaldet import SparseTargets, kernels
from focaldet.bench.measure import cuda_times_ms

if kernels.available()["cuda"] is not None:
    pytest.skip(str(kernels.available()["cuda"]), allow_module_level=True)
pytestmark = pytest.mark.gpu

SLOWEST = 1.6
"""Time of a loss and its gradient, as a multiple of a copy of the logits: both move 8 bytes of memory a logit."""


def moved(x: Any, device: str = "cuda") -> Any:
    """Tensors and targets on a device, anything else as it is."""
    if isinstance(x, SparseTargets):
        return SparseTargets(moved(x.labels, device), moved(x.quality, device))
    return x.to(device) if isinstance(x, Tensor) else x


def on_gpu(case: Case) -> Case:
    loss: Any = case.loss
    return Case(partial(loss.func, **{name: moved(x) for name, x in loss.keywords.items()}), case.logits.cuda())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", cases())
def test_the_error_budget_holds_on_the_device(name, dtype):
    case = cases()[name]
    if name == "giou" and dtype != torch.float32:
        pytest.skip("boxes are computed in float32")
    true, true_grad = truth(case, dtype)
    eager, eager_grad = value_and_grad(case, "reference", dtype)
    fused, fused_grad = (x.cpu() for x in value_and_grad(on_gpu(case), "fused", dtype))
    rounding = HALF_ALLOWANCE[dtype] if dtype != torch.float32 else error(eager_grad, true_grad)
    assert error(fused, true) <= error(eager, true) + ALLOWANCE
    assert error(fused_grad, true_grad) <= rounding + ALLOWANCE


def pyramid(batch: int, dtype: torch.dtype = torch.float32, last: bool = False) -> tuple[list[Tensor], SparseTargets]:
    """Maps of RetinaNet for photos of 800 x 1088: 9 anchors, 80 classes, a few objects."""
    generator = torch.Generator("cuda").manual_seed(0)
    sizes = [(100, 136), (50, 68), (25, 34), (13, 17), (7, 9)]
    maps = [torch.randn(batch, 720, *size, device="cuda", generator=generator).to(dtype) - 4 for size in sizes]
    if last:
        maps = [x.to(memory_format=torch.channels_last) for x in maps]
    labels = torch.full((batch, 9 * sum(h * w for h, w in sizes)), -1, device="cuda")
    labels[:, ::3000], labels[:, 1::7000] = 17, -2
    return [x.requires_grad_() for x in maps], SparseTargets(labels)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("inplace_grad", [False, True])
def test_a_pyramid_is_its_formula(last, inplace_grad):
    maps, targets = pyramid(1, last=last)
    normalizer = torch.tensor(7.0, device="cuda")
    results = []
    for options in ({"impl": "reference"}, {"impl": "fused", "inplace_grad": inplace_grad}):
        places = [x * 1 for x in maps]
        loss = focaldet.sigmoid_focal_loss(places, targets, reduction="sum", normalizer=normalizer, **options)
        results.append((loss.detach(), *torch.autograd.grad(3 * loss, maps)))
    for fused, formula in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(fused, formula, rtol=1e-5, atol=1e-6)


def test_two_runs_give_the_same_bits():
    maps, targets = pyramid(2)
    first, second = (focaldet.sigmoid_focal_loss(maps, targets, reduction="sum") for _ in range(2))
    assert torch.equal(first, second)


def test_a_pyramid_takes_two_launches_forward_and_one_backward_and_never_waits():
    maps, targets = pyramid(2)
    normalizer = torch.tensor(7.0, device="cuda")

    def step() -> None:
        loss = focaldet.sigmoid_focal_loss(maps, targets, reduction="sum", normalizer=normalizer, impl="fused")
        torch.autograd.grad(loss, maps)

    step()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        step()
        torch.cuda.synchronize()
    names = [e.name for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    ours = [name for name in names if name in {"sigmoid_kernel", "sum_kernel", "multiply_kernel"}]
    assert sorted(ours) == ["multiply_kernel", "sigmoid_kernel", "sum_kernel"]
    assert len(names) <= len(ours) + 1  # autograd makes the gradient of the loss, a 1


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is but one CUDA device")
def test_logits_on_another_device_than_the_current_one():
    maps, targets = pyramid(1)
    expected = focaldet.sigmoid_focal_loss(maps, targets, reduction="sum")
    there = focaldet.sigmoid_focal_loss([moved(x, "cuda:1") for x in maps], moved(targets, "cuda:1"), reduction="sum")
    assert torch.cuda.current_device() == 0
    torch.testing.assert_close(there.cpu(), expected.cpu())
    there.backward()


def test_a_loss_and_its_gradient_take_little_longer_than_a_copy():
    maps, targets = pyramid(8)
    copies = [torch.empty_like(x) for x in maps]

    def copy() -> None:
        with torch.no_grad():
            for x, y in zip(copies, maps, strict=True):
                x.copy_(y)

    def loss() -> None:
        torch.autograd.grad(focaldet.sigmoid_focal_loss(maps, targets, reduction="sum", impl="fused"), maps)

    assert median(cuda_times_ms(loss, 20)) <= SLOWEST * median(cuda_times_ms(copy, 20))
