import pytest
import torch

from focaldet.models.joint import joint_logits


@pytest.mark.parametrize("spread", [1.0, 5.0])
def test_joint_logit_is_the_logit_of_the_product(spread):
    a, b = torch.randn(2, 500, generator=torch.Generator().manual_seed(0)) * spread
    expected = (a.double().sigmoid() * b.double().sigmoid()).logit()
    torch.testing.assert_close(joint_logits(a, b).double(), expected, rtol=1e-5, atol=1e-6)


def test_nothing_is_lost_where_probabilities_round_to_zero_and_one():
    a = torch.tensor([-200.0, 200.0, 200.0, -1e4, 1e4], requires_grad=True)
    b = torch.tensor([200.0, 200.0, 1.0, -1e4, 1e4], requires_grad=True)
    joint = joint_logits(a, b)
    torch.testing.assert_close(joint, torch.tensor([-200.0, 200 - 0.6931472, 1.0, -2e4, 1e4 - 0.6931472]))
    joint.sum().backward()
    assert bool(a.grad.isfinite().all() and b.grad.isfinite().all())
    torch.testing.assert_close(a.grad, torch.tensor([1.0, 0.5, 0.0, 1.0, 0.5]), rtol=0, atol=5e-4)


def test_shapes_broadcast_and_half_precision_is_computed_in_float32():
    joint = joint_logits(torch.zeros(2, 3, 4, 5, dtype=torch.bfloat16), torch.zeros(2, 1, 4, 5, dtype=torch.bfloat16))
    assert joint.shape == (2, 3, 4, 5)
    assert joint.dtype == torch.float32


def test_derivatives_are_those_of_finite_differences():
    a, b = torch.randn(2, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_().unbind()

    def product(a, b):  # float32 inside: compare with the analytic derivative instead of gradcheck
        return joint_logits(a, b).sum()

    for given, other in ((a, b), (b, a)):
        (found,) = torch.autograd.grad(product(a, b), given)
        p, q = given.sigmoid(), other.sigmoid()
        expected = (1 - p) / (1 - p * q)  # d logit(pq) / dz = (1/pq + 1/(1-pq)) p (1-p) q
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_gradients_of_broadcast_logits_are_sums_and_keep_their_dtype_and_memory_format():
    a = torch.randn(2, 5, 3, 4).to(memory_format=torch.channels_last).bfloat16().requires_grad_()
    b = torch.randn(2, 1, 3, 4).bfloat16().requires_grad_()
    weight = torch.rand(2, 5, 3, 4)
    joint = joint_logits(a, b)
    assert joint.is_contiguous(memory_format=torch.channels_last)
    (joint * weight).sum().backward()
    p, q = a.detach().double().sigmoid(), b.detach().double().sigmoid()
    expected = ((1 - q) / (1 - p * q) * weight).sum(dim=1, keepdim=True)
    assert a.grad.dtype == b.grad.dtype == torch.bfloat16
    torch.testing.assert_close(b.grad.double(), expected, rtol=1e-2, atol=1e-2)
