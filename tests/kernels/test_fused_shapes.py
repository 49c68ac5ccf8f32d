"""Shapes, strides, dtypes and threads: the fused kernels against the plain formulas."""

import pytest
import torch
from fused_cases import cases, needs_cpu_kernels, value_and_grad
from hypothesis import given, settings
from hypothesis import strategies as st

import focaldet
from focaldet import SparseTargets

pytestmark = needs_cpu_kernels


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_does_not_change_a_bit(threads):
    before = torch.get_num_threads()
    results = []
    for count in (1, threads, threads):
        torch.set_num_threads(count)
        results.append(
            {n: value_and_grad(c, "fused", reduction="sum") for n, c in cases(9000, 11, exponents=(2,)).items()}
        )
    torch.set_num_threads(before)
    for name, (loss, grad) in results[0].items():
        for other in results[1:]:
            assert torch.equal(loss, other[name][0]), name
            assert torch.equal(grad, other[name][1]), name


@st.composite
def sigmoid_inputs(draw):
    shape = draw(st.lists(st.integers(0, 9), min_size=0, max_size=3))
    num_classes = draw(st.sampled_from([1, 2, 3, 7, 16, 80, 513]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    z = torch.randn(*shape, num_classes, generator=generator)
    layout = draw(st.sampled_from(["contiguous", "channels_first", "sliced", "transposed"]))
    if layout == "channels_first" and z.ndim > 2:
        z = z.movedim(-1, 1).contiguous().movedim(1, -1)
    elif layout == "sliced":
        z = torch.randn(*shape, 2 * num_classes, generator=generator)[..., ::2]
    elif layout == "transposed" and z.ndim > 1:
        z = z.transpose(0, -1).contiguous().transpose(0, -1)
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    labels = torch.randint(-2, num_classes, tuple(shape), generator=generator)
    quality = draw(st.sampled_from([None, torch.float32, torch.float64, torch.bfloat16]))
    quality = None if quality is None else torch.rand(shape, generator=generator).to(quality)
    dense = torch.rand(*shape, num_classes, generator=generator)
    target = (
        dense
        if draw(st.booleans())
        else SparseTargets(labels.to(draw(st.sampled_from([torch.int32, torch.int64]))), quality)
    )
    weights = [None, 0.5, torch.rand(num_classes, generator=generator), torch.rand(*shape, 1, generator=generator)]
    weights += [torch.rand(*shape, num_classes, generator=generator), torch.rand((), generator=generator)]
    if shape:
        weights.append(torch.rand(shape[0], *(1 for _ in shape), generator=generator))
    weight = draw(st.sampled_from(weights))
    alpha = draw(st.sampled_from([None, 0.25, -1, torch.rand(num_classes, generator=generator), torch.tensor(0.3)]))
    normalizer = draw(st.sampled_from([None, 3, torch.tensor(7), torch.tensor(2.5, dtype=torch.float64)]))
    gamma = draw(st.sampled_from([0, 1, 2, 0.7]))
    return z.to(dtype), target, weight, alpha, normalizer, gamma


def compare(loss, z, **kwargs):
    results = []
    for impl in ("reference", "fused"):
        leaf = z.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        value = loss(leaf, impl=impl, **kwargs)
        value.backward(torch.ones_like(value))
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-5, atol=1e-5)
    rounding = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}[z.dtype]
    torch.testing.assert_close(results[1][1], results[0][1], rtol=rounding, atol=rounding * 1e-1)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(sigmoid_inputs(), st.sampled_from(["none", "sum", "mean"]))
def test_any_sigmoid_input_gives_what_the_formula_gives(inputs, reduction):
    z, target, weight, alpha, normalizer, gamma = inputs
    common = {"targets": target, "weight": weight, "reduction": reduction}
    if reduction == "sum":
        common["normalizer"] = normalizer
    compare(focaldet.sigmoid_focal_loss, z, alpha=alpha, gamma=gamma, **common)
    compare(focaldet.quality_focal_loss, z, beta=gamma, **common)
    compare(focaldet.varifocal_loss, z, gamma=gamma, **common)
    compare(focaldet.matchability_aware_loss, z, gamma=gamma, **common)
    compare(focaldet.iou_aware_bce_loss, z, gamma=gamma, **common)


@st.composite
def softmax_inputs(draw):
    shape = draw(st.lists(st.integers(0, 9), min_size=0, max_size=3))
    num_classes = draw(st.sampled_from([2, 3, 17, 21, 600]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    z = 3 * torch.randn(*shape, num_classes, generator=generator)
    if draw(st.booleans()) and z.ndim > 2:
        z = z.movedim(-1, 1).contiguous().movedim(1, -1)
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    teacher = 3 * torch.randn(*shape, num_classes, generator=generator).to(
        draw(st.sampled_from([dtype, torch.float64]))
    )
    labels = torch.randint(0, num_classes, tuple(shape), generator=generator)
    labels[torch.rand(shape, generator=generator) < 0.2] = -100
    positions = torch.rand(shape, generator=generator) * (num_classes - 1)
    weight = draw(st.sampled_from([None, 2.0, torch.rand(shape, generator=generator)]))
    return (
        z.to(dtype),
        labels,
        positions,
        teacher,
        weight,
        draw(st.sampled_from([0, 1, 2, 0.7])),
        draw(st.sampled_from([0, 0.1])),
    )


@settings(max_examples=80, deadline=None, derandomize=True)
@given(softmax_inputs(), st.sampled_from(["none", "sum", "mean"]))
def test_any_softmax_input_gives_what_the_formula_gives(inputs, reduction):
    z, labels, positions, teacher, weight, gamma, smoothing = inputs
    common = {"weight": weight, "reduction": reduction}
    compare(focaldet.softmax_focal_loss, z, labels=labels, gamma=gamma, label_smoothing=smoothing, **common)
    compare(focaldet.distribution_focal_loss, z, targets=positions, **common)
    compare(focaldet.distillation_loss, z, teacher_logits=teacher, temperature=1 + gamma, **common)


@pytest.mark.parametrize("anchors", [1, 3])
@pytest.mark.parametrize("num_classes", [1, 5])
@pytest.mark.parametrize("impl", ["reference", "fused"])
def test_a_pyramid_of_maps_is_its_concatenated_rows(anchors, num_classes, impl):
    generator = torch.Generator().manual_seed(0)
    maps, rows = [], []
    for height, width, last in [(5, 7, False), (3, 4, True), (1, 2, False), (1, 1, True)]:
        x = torch.randn(2, anchors * num_classes, height, width, generator=generator)
        x = x.to(memory_format=torch.channels_last) if last else x
        maps.append(x.requires_grad_())
        rows.append(x.permute(0, 2, 3, 1).reshape(2, -1, num_classes))
    flat = torch.cat(rows, dim=1)
    labels = torch.randint(-2, num_classes, flat.shape[:2], generator=generator)
    target = SparseTargets(labels, torch.rand(*flat.shape[:2], generator=generator))
    for weight in (
        None,
        torch.rand(*flat.shape[:2], 1, generator=generator),
        torch.rand(num_classes, generator=generator),
    ):
        for reduction in ("none", "sum", "mean"):
            kwargs = {"weight": weight, "reduction": reduction}
            loss = focaldet.quality_focal_loss(maps, target, impl=impl, **kwargs)
            expected = focaldet.quality_focal_loss(flat, target, impl="reference", **kwargs)
            torch.testing.assert_close(loss, expected)
            grads = torch.autograd.grad(loss.sum(), maps)
            wanted = torch.autograd.grad(expected.sum(), maps, retain_graph=True)
            for grad, want, x in zip(grads, wanted, maps, strict=True):
                torch.testing.assert_close(grad, want)
                if impl == "fused" and x.shape[1] > 1 and x.shape[2] > 1:
                    assert grad.stride() == x.stride()


def test_a_gradient_of_channels_last_maps_is_written_over_them():
    maps = [torch.randn(1, 4, 3, 3).to(memory_format=torch.channels_last).requires_grad_()]
    target = SparseTargets(torch.randint(-2, 4, (1, 9)))
    expected = torch.autograd.grad(focaldet.sigmoid_focal_loss(maps, target, reduction="sum"), maps)[0]
    place = maps[0].data_ptr()
    focaldet.sigmoid_focal_loss(maps, target, reduction="sum", inplace_grad=True).backward()
    torch.testing.assert_close(maps[0].grad, expected)
    assert maps[0].grad.data_ptr() == place


@pytest.mark.parametrize("impl", ["reference", "fused"])
def test_labels_out_of_range_are_an_error_before_anything_is_written(impl):
    z = torch.randn(4, 3, requires_grad=True)
    before = z.detach().clone()
    for wrong in (3, -3, 2**40):
        labels = torch.tensor([0, 1, wrong, 2])
        with pytest.raises((ValueError, RuntimeError), match=f"expected -2 .. 2 for 3 classes, got {wrong}"):
            focaldet.sigmoid_focal_loss(z, SparseTargets(labels), reduction="sum", impl=impl, inplace_grad=True)
        with pytest.raises((ValueError, RuntimeError), match=f"expected 0 .. 2 for 3 classes, got {wrong}"):
            focaldet.softmax_focal_loss(z, labels, reduction="sum", impl=impl, inplace_grad=True)
    for wrong in (-0.5, 2.5, float("nan")):
        with pytest.raises((ValueError, RuntimeError), match=r"expected 0 \.\. 2 for 3 bins"):
            focaldet.distribution_focal_loss(z, torch.tensor([0, 1, wrong, 2]), impl=impl)
    assert torch.equal(z.detach(), before)


@pytest.mark.slow
def test_more_than_2_to_the_31_logits_are_addressed_rightly():
    """Zeros that nobody has written cost address space, not memory: 4.3 GB of it. Only the last row has a weight."""
    rows, num_classes = 2**21 + 1, 1024
    logits = torch.zeros(rows, num_classes, dtype=torch.bfloat16)
    logits[-1, -1] = 2.0
    labels = torch.full((rows,), -1)
    labels[-1] = num_classes - 1
    weight = torch.zeros(rows, 1)
    weight[-1] = 1
    loss = focaldet.binary_cross_entropy(logits, SparseTargets(labels), weight=weight, reduction="sum", impl="fused")
    # 1023 negatives and a positive with σ(2) = .8808: log 2 = .693147, -log .8808 = .126928
    assert float(loss) == pytest.approx(1023 * 0.6931472 + 0.1269280, rel=1e-6)
