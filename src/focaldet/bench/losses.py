"""`focaldet bench losses`: the fused losses compared with common implementations on this machine."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss
from torchvision.ops import sigmoid_focal_loss as torchvision_focal

from focaldet import functional, kernels
from focaldet.bench import peers
from focaldet.bench.measure import cuda_extra_peak_bytes, extra_peak_bytes, interleaved_ms
from focaldet.engine.devices import describe_device
from focaldet.structures import SparseTargets
from focaldet.system.machine import processor

RETINANET = (174_592, 80)
"""(Locations times anchors, classes) of a RetinaNet at about 800 x 1088: 14 million logits."""

LVIS = (87_296, 1_203)


CPU = torch.device("cpu")

COPY_BOUND = "the same / copy of the logits"
"""Number of plain copies of the logits in the peer's time: no loss that reads from memory can be faster."""


@dataclass(frozen=True)
class Row:
    """One comparison: ``value`` is a ratio or an amount in ``unit``; ``wanted`` is the project's goal."""

    work: str
    measure: str
    value: float
    unit: str
    wanted: str


def detector_inputs(
    rows: int, num_classes: int, positives: int = 600, device: torch.device = CPU
) -> tuple[Tensor, SparseTargets, Tensor]:
    """Logits as at the start of training, sparse targets with ``positives`` objects, and the same targets dense."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(rows, num_classes, generator=generator) - 4
    labels = torch.full((rows,), -1)
    at = torch.randperm(rows, generator=generator)[:positives]
    labels[at] = torch.randint(0, num_classes, (positives,), generator=generator)
    quality = torch.rand(rows, generator=generator)
    dense = torch.zeros(rows, num_classes)
    dense[at, labels[at]] = 1
    return logits.to(device), SparseTargets(labels.to(device), quality.to(device)), dense.to(device)


def step(logits: Tensor, loss: Callable[[Tensor], Tensor]) -> None:
    """Forward and backward into a fresh gradient."""
    logits.grad = None
    torch.autograd.backward(loss(logits))


def sigmoid_rows(compiled: bool, device: torch.device = CPU) -> Iterator[Row]:
    """Focal and quality focal loss at a detector's size."""
    values, targets, dense = detector_inputs(*RETINANET, device=device)
    labels = SparseTargets(targets.labels)
    leaf, place, copy = values.clone().requires_grad_(), values.clone().requires_grad_(), torch.empty_like(values)
    options: Any = {"reduction": "sum", "normalizer": 600}
    quality = targets.quality
    assert quality is not None

    def refill() -> None:  # restores the logits; the second run of a turn gets gradients as logits, at the same speed
        with torch.no_grad():
            place.copy_(values)

    functions: dict[str, Callable[[], object]] = {
        "copy": lambda: copy.copy_(values),
        "refill": refill,
        "in place": lambda: step(
            place, lambda z: functional.sigmoid_focal_loss(z, labels, inplace_grad=True, **options)
        ),
        "fresh": lambda: step(leaf, lambda z: functional.sigmoid_focal_loss(z, labels, **options)),
        "quality": lambda: step(leaf, lambda z: functional.quality_focal_loss(z, targets, **options)),
        "gathered": lambda: step(leaf, lambda z: peers.gathered_quality_focal(z, targets.labels, quality, 600)),
        "torchvision": lambda: step(leaf, lambda z: torchvision_focal(z, dense, reduction="sum") / 600),
    }
    if compiled:
        peer = torch.compile(lambda z: torchvision_focal(z, dense, reduction="sum") / 600)
        functions["compiled"] = lambda: step(leaf, peer)
    ms = interleaved_ms(functions, seconds=15, wait=waiting_for(device))
    work = "focal, 174,592 x 80, sparse, inplace_grad"
    yield Row(work, "torchvision eager / ours", ms["torchvision"] / ms["in place"], "x", ">= 80")
    if compiled:
        yield Row(work, "torchvision compiled / ours", ms["compiled"] / ms["in place"], "x", ">= 20")
        yield Row(work, COPY_BOUND, ms["compiled"] / ms["copy"], "x", "")
    yield Row(work, "ours / copy of the logits", ms["in place"] / ms["copy"], "x", "<= 2")
    yield Row(work, "ours", ms["in place"], "ms", "")
    work = "focal, 174,592 x 80, sparse, fresh gradient"
    yield Row(work, "torchvision eager / ours", ms["torchvision"] / ms["fresh"], "x", ">= 15")
    if compiled:
        yield Row(work, "torchvision compiled / ours", ms["compiled"] / ms["fresh"], "x", ">= 4")
    yield Row(work, "ours", ms["fresh"], "ms", "")
    work = "quality focal, 174,592 x 80, 600 positives"
    yield Row(work, "gathered formulation / ours", ms["gathered"] / ms["quality"], "x", ">= 15")
    yield Row(work, "ours", ms["quality"], "ms", "")


def other_rows(device: torch.device = CPU) -> Iterator[Row]:
    """Softmax losses, boxes and tiny inputs."""
    generator = torch.Generator().manual_seed(1)
    bins = torch.randn(50_000, 17, generator=generator).to(device).requires_grad_()
    positions = (15.9 * torch.rand(50_000, generator=generator)).to(device)
    sides, taught_sides, scores, taught_scores = (
        torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)
        for seed, shape in enumerate(((20_000, 17), (20_000, 17), (4_000, 80), (4_000, 80)))
    )
    rows = torch.randn(200_000, 21, generator=generator).to(device).requires_grad_()
    labels = torch.randint(0, 21, (200_000,), generator=generator).to(device)
    boxes = 100 * torch.rand(100_000, 4, generator=generator)
    boxes[:, 2:] += boxes[:, :2]
    other = (boxes + torch.rand(100_000, 4, generator=generator)).to(device)
    boxes = boxes.to(device).requires_grad_()
    tiny = torch.randn(100, 3, generator=generator).to(device).requires_grad_()
    tiny_dense = torch.zeros(100, 3)
    tiny_dense[:20, 1] = 1
    tiny_dense = tiny_dense.to(device)
    tiny_labels = SparseTargets(torch.where(torch.arange(100) < 20, 1, -1).to(device))
    comparisons: list[tuple[str, str, str, Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = [
        (
            "distribution focal, 50,000 x 17",
            "two cross entropies / ours",
            ">= 5",
            bins,
            lambda z: functional.distribution_focal_loss(z, positions, reduction="sum"),
            lambda z: peers.two_cross_entropies(z, positions),
        ),
        (
            "distillation, 20,000 x 17, T 10",
            "F.kl_div / ours",
            "",
            sides.requires_grad_(),
            lambda z: functional.distillation_loss(z, taught_sides, temperature=10.0, reduction="sum"),
            lambda z: peers.divergence_of_softmaxes(z, taught_sides, 10.0),
        ),
        (
            "distillation, 4,000 x 80, T 2",
            "F.kl_div / ours",
            "",
            scores.requires_grad_(),
            lambda z: functional.distillation_loss(z, taught_scores, temperature=2.0, reduction="sum"),
            lambda z: peers.divergence_of_softmaxes(z, taught_scores, 2.0),
        ),
        (
            "softmax cross entropy, 200,000 x 21",
            "F.cross_entropy / ours",
            ">= 1.2",
            rows,
            lambda z: functional.cross_entropy(z, labels, reduction="sum"),
            lambda z: F.cross_entropy(z, labels, reduction="sum"),
        ),
        (
            "softmax focal, 200,000 x 21",
            "focal on F.cross_entropy / ours",
            ">= 5",
            rows,
            lambda z: functional.softmax_focal_loss(z, labels, reduction="sum"),
            lambda z: peers.focal_on_cross_entropy(z, labels),
        ),
        (
            "softmax focal, 200,000 x 21, inplace_grad",
            "focal on F.cross_entropy / ours",
            ">= 5",
            rows.detach().clone().requires_grad_(),
            lambda z: functional.softmax_focal_loss(z, labels, reduction="sum", inplace_grad=True),
            lambda z: peers.focal_on_cross_entropy(z, labels),
        ),
        (
            "GIoU, 100,000 pairs",
            "torchvision / ours",
            ">= 10",
            boxes,
            lambda z: functional.giou_loss(z, other, reduction="sum"),
            lambda z: generalized_box_iou_loss(z, other, reduction="sum"),
        ),
        (
            "focal, 100 x 3",
            "torchvision eager / ours",
            ">= 1",
            tiny,
            lambda z: functional.sigmoid_focal_loss(z, tiny_labels, reduction="sum"),
            lambda z: torchvision_focal(z, tiny_dense, reduction="sum"),
        ),
    ]
    for work, measure, wanted, logits, ours, peer in comparisons:
        values = logits.detach()
        copy = torch.empty_like(values)
        functions: dict[str, Callable[[], object]] = {
            "ours": partial(step, logits, ours),
            "peer": partial(step, logits, peer),
            "copy": partial(copy.copy_, values),
        }
        ms = interleaved_ms(functions, seconds=2, wait=waiting_for(device))
        yield Row(work, measure, ms["peer"] / ms["ours"], "x", wanted)
        yield Row(work, "ours", ms["ours"], "ms", "")
        if ms["peer"] < 20 * ms["copy"]:  # close enough to matter
            yield Row(work, COPY_BOUND, ms["peer"] / ms["copy"], "x", "")


def memory_run(
    loss: str, rows: int, num_classes: int, dtype: torch.dtype, device: torch.device = CPU
) -> Callable[[], object]:
    """Prepare a forward and backward pass of ``loss``, after a small one to make PyTorch load everything."""
    losses: dict[str, Callable[[Tensor, SparseTargets, Tensor], Tensor]] = {
        "focal": lambda z, t, _: functional.sigmoid_focal_loss(z, t, reduction="sum"),
        "in place": lambda z, t, _: functional.sigmoid_focal_loss(z, t, reduction="sum", inplace_grad=True),
        "quality focal": lambda z, t, _: functional.quality_focal_loss(z, t, reduction="sum"),
        "torchvision": lambda z, _, y: torchvision_focal(z, y, reduction="sum"),
    }

    def ready(rows: int) -> Callable[[], object]:
        logits, targets, dense = detector_inputs(rows, num_classes, rows // 300, device)
        dense = dense.to(dtype) if loss == "torchvision" else torch.empty(0)
        return partial(step, logits.to(dtype).requires_grad_(), lambda z: losses[loss](z, targets, dense))

    ready(600)()
    return ready(rows)


def memory_rows(device: torch.device = CPU) -> Iterator[Row]:
    """Extra peak memory, beyond logits and targets; only of CPUs under Linux and of CUDA GPUs."""
    measures: dict[str, Callable[..., int | None]] = {"cpu": extra_peak_bytes, "cuda": cuda_extra_peak_bytes}
    peak = measures.get(device.type)
    if peak is None:
        return
    size = 4 * RETINANET[0] * RETINANET[1]
    for loss, wanted in (("focal", "<= 1.0"), ("quality focal", "<= 1.0"), ("in place", "0"), ("torchvision", "")):
        extra = peak(memory_run, loss, *RETINANET, torch.float32, device)
        if extra is not None:
            yield Row(
                "174,592 x 80, forward and backward", f"extra peak memory, {loss}", extra / size, "x logits", wanted
            )
    for loss, wanted in (("focal", "<= 0.5"), ("in place", ""), ("torchvision", "")):
        extra = peak(memory_run, loss, *LVIS, torch.bfloat16, device)
        if extra is not None:
            yield Row("87,296 x 1,203, bfloat16", f"extra peak memory, {loss}", extra / 1e9, "GB", wanted)


def growth(sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)) -> list[tuple[int, float]]:
    """(logits, milliseconds) of focal loss with ``inplace_grad``, 80 classes."""
    results = []
    for size in sizes:
        logits, targets, _ = detector_inputs(size // 80, 80, positives=max(1, size // 80 // 300))
        labels = SparseTargets(targets.labels)
        logits.requires_grad_()

        def loss(z: Tensor, labels: SparseTargets = labels) -> Tensor:
            return functional.sigmoid_focal_loss(z, labels, reduction="sum", inplace_grad=True)

        run = partial(step, logits, loss)
        results.append((size // 80 * 80, interleaved_ms({"ours": run}, seconds=1)["ours"]))
    return results


def loss_rows(*, compiled: bool = True, memory: bool = True, device: torch.device = CPU) -> Iterator[Row]:
    """All comparisons, one by one; `compiled` takes half a minute for torch.compile.

    On devices other than the CPU, ``wanted`` is empty, because the goals are for CPUs.
    """
    rows = [sigmoid_rows(compiled, device), other_rows(device), memory_rows(device) if memory else ()]
    for row in chain.from_iterable(rows):
        yield row if device.type == "cpu" else replace(row, wanted="")


def waiting_for(device: torch.device) -> Callable[[], object]:
    """The function that waits until a device has finished."""
    return (lambda: None) if device.type == "cpu" else partial(torch.accelerator.synchronize, device)


def machine(device: torch.device = CPU) -> str:
    """Describe the machine and versions behind the numbers."""
    if device.type != "cpu":
        why_not = kernels.available().get(device.type, "none for this device")
        return f"{describe_device(device)}, torch {torch.__version__}, Triton kernels: {why_not or 'yes'}"
    return (
        f"{processor()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, "
        f"torch {torch.__version__}, C++ kernels: {kernels.available()['cpu'] or 'yes'}"
    )


def table(rows: Iterable[Row]) -> Iterator[str]:
    """The lines of a Markdown table, each as soon as its row is measured."""
    yield "| work | measure | value | asked |"
    yield "|---|---|---|---|"
    for r in rows:
        yield f"| {r.work} | {r.measure} | {r.value:.2f} {r.unit} | {r.wanted} |"
