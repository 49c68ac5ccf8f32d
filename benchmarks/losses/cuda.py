"""The rows of ``python -m benchmarks.losses --device cuda``: the Triton kernels and their peers on a GPU.

Times are measured with the device's own clock and a cold cache. Apex and Liger are compared if they are installed;
their inputs are measured in any case: rows of half-precision logits as in Apex, and Liger's sizes of a cross entropy,
with its quantiles and its peak memory.
"""

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from statistics import quantiles
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss
from torchvision.ops import sigmoid_focal_loss as torchvision_focal

from focaldet import functional
from focaldet.bench.losses import Row, detector_inputs, step
from focaldet.bench.measure import cuda_extra_peak_bytes, cuda_times_ms
from focaldet.bench.peers import divergence_of_softmaxes, two_cross_entropies
from focaldet.structures import SparseTargets

SIZES = ((100, 136), (50, 68), (25, 34), (13, 17), (7, 9))
"""Maps of a RetinaNet at 800 x 1088."""

ANCHORS, CLASSES = 9, 80


class Time(NamedTuple):
    """Milliseconds: the median, and the 20 % and 80 % quantiles."""

    median: float
    low: float
    high: float


def device_ms(run: Callable[[], object], *, runs: int = 50) -> Time:
    """Time of ``run`` by the device's clock, with nothing from the previous run in its cache."""
    fifths = quantiles(cuda_times_ms(run, runs), n=10)
    return Time(fifths[4], fifths[1], fifths[7])


def extra_bytes(run: Callable[[], object]) -> int:
    """Peak memory of a run after the first."""
    run()
    return cuda_extra_peak_bytes(lambda: run)


def pyramid(batch: int, dtype: torch.dtype, last: bool) -> tuple[list[Tensor], SparseTargets, Tensor]:
    """Maps as at the start of training, sparse targets, and dense targets of all locations ``(B, P, C)``."""
    sites = ANCHORS * sum(h * w for h, w in SIZES)
    _, targets, dense = detector_inputs(batch * sites, CLASSES, positives=40 * batch)
    maps = [(2 * torch.randn(batch, ANCHORS * CLASSES, *size, device="cuda") - 4).to(dtype) for size in SIZES]
    if last:
        maps = [x.to(memory_format=torch.channels_last) for x in maps]
    labels = targets.labels.view(batch, sites).cuda()
    return [x.requires_grad_() for x in maps], SparseTargets(labels), dense.view(batch, sites, CLASSES).cuda()


def flat(maps: list[Tensor]) -> Tensor:
    """Input of other losses: one tensor of all locations."""
    return torch.cat([x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, CLASSES) for x in maps], dim=1)


def pyramid_rows(batch: int = 8) -> Iterator[Row]:
    """Focal loss of a pyramid: against a copy of its bytes, and against torchvision, eager and compiled."""
    for dtype in (torch.float32, torch.bfloat16):
        for last in (False, True):
            maps, targets, dense = pyramid(batch, dtype, last)
            dense = dense.to(dtype)
            copies = [torch.empty_like(x) for x in maps]

            def backward(loss: Callable[[], Tensor], maps: list[Tensor] = maps) -> None:
                torch.autograd.grad(loss(), maps)

            def copy(maps: list[Tensor] = maps, copies: list[Tensor] = copies) -> None:
                with torch.no_grad():
                    for x, y in zip(copies, maps, strict=True):
                        x.copy_(y)

            def torchvision(maps: list[Tensor] = maps, dense: Tensor = dense) -> Tensor:
                return torchvision_focal(flat(maps), dense, reduction="sum")

            def ours(maps: list[Tensor] = maps, targets: SparseTargets = targets) -> Tensor:
                return functional.sigmoid_focal_loss(maps, targets, reduction="sum", impl="fused")

            runs = {
                "ours": partial(backward, ours),
                "torchvision eager": partial(backward, torchvision),
                "torchvision compiled": partial(backward, torch.compile(torchvision)),
            }
            times = {name: device_ms(run).median for name, run in runs.items()}
            count = sum(x.numel() for x in maps)
            size = maps[0].element_size()
            wanted = "<= 1.6" if dtype == torch.float32 else ""
            kind = f"{str(dtype).removeprefix('torch.')}, {'channels last' if last else 'NCHW'}"
            work = f"focal, {batch} x {targets.labels.shape[1]:,} x {CLASSES}, {kind}"
            yield Row(work, "ours", times["ours"], "ms", "")
            yield Row(work, "ours, logits and derivatives", 2 * size * count / times["ours"] / 1e9, "TB/s", "")
            yield Row(work, "ours / copy of the logits", times["ours"] / device_ms(copy).median, "x", wanted)
            for name in ("torchvision eager", "torchvision compiled"):
                yield Row(work, f"{name} / ours", times[name] / times["ours"], "x", "")
            for name, run in runs.items():
                yield Row(work, f"extra peak memory, {name}", extra_bytes(run) / (size * count), "x logits", "")


def apex_rows() -> Iterator[Row]:
    """Rows of float16 logits with one label each, as for Apex's focal loss, which has its own CUDA kernel."""
    values, targets, _ = detector_inputs(174_592, CLASSES)
    logits = values.half().cuda().requires_grad_()
    labels = targets.labels.cuda()
    positives = torch.tensor(600.0, device="cuda")
    sparse = SparseTargets(labels)
    work = "focal, 174,592 x 80, float16 rows"
    ours = device_ms(
        lambda: step(logits, lambda z: functional.sigmoid_focal_loss(z, sparse, reduction="sum", normalizer=positives))
    )
    yield Row(work, "ours", ours.median, "ms", "")
    if find_spec("apex") is not None:
        from apex.contrib.focal_loss import focal_loss

        apex = device_ms(lambda: step(logits, lambda z: focal_loss(z, labels, positives, CLASSES, 0.25, 2.0)))
        yield Row(work, "apex / ours", apex.median / ours.median, "x", "")


def liger_rows() -> Iterator[Row]:
    """Cross entropy at sizes that Liger reports: 16,384 rows; time with quantiles, and peak memory."""
    losses: dict[str, Any] = {
        "ours": lambda z, t: functional.cross_entropy(z, t, reduction="sum"),
        "torch": lambda z, t: F.cross_entropy(z, t, reduction="sum"),
    }
    if find_spec("liger_kernel") is not None:
        from liger_kernel.transformers import LigerCrossEntropyLoss

        losses["liger"] = LigerCrossEntropyLoss(reduction="sum")
    for num_classes in (4096, 8192, 16384, 32768):
        logits = torch.randn(16_384, num_classes, device="cuda", requires_grad=True)
        labels = torch.randint(0, num_classes, (16_384,), device="cuda")
        for name, loss in losses.items():
            run = partial(step, logits, lambda z, loss=loss, labels=labels: loss(z, labels))
            time = device_ms(run, runs=20)
            work = f"cross entropy, 16,384 x {num_classes:,}"
            yield Row(
                work, f"{name} (a fifth below {time.low:.2f}, a fifth above {time.high:.2f})", time.median, "ms", ""
            )
            logits.grad = None
            yield Row(work, f"extra peak memory, {name}", extra_bytes(run) / (4 * logits.numel()), "x logits", "")


def other_rows() -> Iterator[Row]:
    """Distribution focal loss, distillation and GIoU, compared with common implementations."""
    bins = torch.randn(400_000, 17, device="cuda", requires_grad=True)
    taught = torch.randn(400_000, 17, device="cuda")
    positions = 15.9 * torch.rand(400_000, device="cuda")
    boxes = 100 * torch.rand(1_000_000, 4, device="cuda")
    boxes[:, 2:] += boxes[:, :2]
    other = boxes + torch.rand_like(boxes)
    boxes.requires_grad_()
    comparisons: list[tuple[str, str, Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = [
        (
            "distribution focal, 400,000 x 17",
            "two cross entropies / ours",
            bins,
            lambda z: functional.distribution_focal_loss(z, positions, reduction="sum"),
            lambda z: two_cross_entropies(z, positions),
        ),
        (
            "distillation, 400,000 x 17",
            "F.kl_div / ours",
            bins,
            lambda z: functional.distillation_loss(z, taught, reduction="sum"),
            lambda z: divergence_of_softmaxes(z, taught, 10.0),
        ),
        (
            "GIoU, 1,000,000 pairs",
            "torchvision / ours",
            boxes,
            lambda z: functional.giou_loss(z, other, reduction="sum"),
            lambda z: generalized_box_iou_loss(z, other, reduction="sum"),
        ),
    ]
    for work, measure, values, ours, peer in comparisons:
        time, other_time = device_ms(partial(step, values, ours)), device_ms(partial(step, values, peer))
        yield Row(work, "ours", time.median, "ms", "")
        yield Row(work, measure, other_time.median / time.median, "x", "")


def rows() -> Iterator[Row]:
    """All comparisons, one by one."""
    yield from pyramid_rows()
    yield from apex_rows()
    yield from liger_rows()
    yield from other_rows()
