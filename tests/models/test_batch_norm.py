import multiprocessing

import pytest
import timm
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import nn

from focaldet.models.batch_norm import SynchronisedBatchNorm, synchronise_batch_norm

SHARES = [slice(0, 3), slice(3, 8)]
"""Images of each process: unequal, so that a mean of the processes' means would be wrong."""


def norms():
    """An ordinary one, timm's with an activation inside, one without weights, one with the mean over all batches."""
    torch.manual_seed(0)
    made = [nn.BatchNorm2d(4), BatchNormAct2d(4), nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, momentum=None)]
    for norm in made:
        for parameter in norm.parameters():
            nn.init.normal_(parameter, 1.0, 0.5)
    return made


def batch():
    """A batch far from zero, where the mean of squares less the squared mean has few digits left; and a gradient."""
    rng = torch.Generator().manual_seed(1)
    x = 100 + torch.randn(8, 4, 5, 6, generator=rng) * torch.tensor([0.1, 1.0, 2.0, 3.0]).view(4, 1, 1)
    return x, torch.randn(8, 4, 5, 6, generator=rng)


def passed(norm, x, grad):
    """Two steps: result, gradient of the input, gradients of the parameters, and the buffers."""
    for _ in range(2):
        norm.zero_grad()
        own = x.clone().requires_grad_()
        y = norm(own)
        y.backward(grad)
    return (
        y.detach(),
        own.grad,
        {name: parameter.grad for name, parameter in norm.named_parameters()},
        dict(norm.named_buffers()),
    )


def _work(rank, file, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    x, grad = (t[SHARES[rank]] for t in batch())
    found = [passed(synchronise_batch_norm(norm), x, grad) for norm in norms()]
    half = synchronise_batch_norm(nn.BatchNorm2d(4))(x.bfloat16())
    torch.save((found, half), results[rank])
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_one_batch_norm_of_the_joined_batch(tmp_path):
    context = multiprocessing.get_context("spawn")
    files = [tmp_path / "0.pt", tmp_path / "1.pt"]
    workers = [context.Process(target=_work, args=(rank, tmp_path / "store", files)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    (first, half), (second, _) = (torch.load(file) for file in files)
    assert half.dtype == torch.bfloat16

    x, grad = batch()
    for norm, *shares in zip(norms(), first, second, strict=True):
        wide = norm.double()  # the truth
        y, grad_x, grads, buffers = passed(wide, x.double(), grad.double())
        # x is known to 100 * 2^-24 = 6e-6, which the division by a deviation of 0.1 makes 6e-5.
        tolerance = {"atol": 2e-4, "rtol": 1e-4, "check_dtype": False}
        torch.testing.assert_close(torch.cat([share[0] for share in shares]), y, **tolerance)
        torch.testing.assert_close(torch.cat([share[1] for share in shares]), grad_x, **tolerance)
        for name, value in grads.items():
            summed = shares[0][2][name] + shares[1][2][name]
            torch.testing.assert_close(summed, value, atol=1e-3, rtol=1e-4, check_dtype=False)
        for share in shares:
            assert share[3].keys() == buffers.keys()
            for name, value in buffers.items():
                torch.testing.assert_close(share[3][name], value, atol=1e-5, rtol=1e-5, check_dtype=False)


def test_a_single_process_has_the_ordinary_batch_norm_to_the_bit():
    x, grad = batch()
    for plain, other in zip(norms(), norms(), strict=True):
        expected, found = passed(plain, x, grad), passed(synchronise_batch_norm(other), x, grad)
        assert torch.equal(expected[0], found[0])
        assert torch.equal(expected[1], found[1])
        assert all(torch.equal(expected[3][name], found[3][name]) for name in expected[3])


@pytest.mark.parametrize("name", ["regnetx_002", "mobilenetv3_small_050", "resnet18"])
def test_a_timm_network_keeps_names_tensors_and_result(name):
    net = timm.create_model(name, features_only=True, out_indices=(2, 3, 4)).eval()
    before = dict(net.named_parameters()) | dict(net.named_buffers())
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = net(x)
        assert synchronise_batch_norm(net) is net
        after = dict(net.named_parameters()) | dict(net.named_buffers())
        assert before.keys() == after.keys()
        assert all(before[key] is after[key] for key in before)
        norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        assert norms
        assert all(isinstance(module, SynchronisedBatchNorm) and not module.training for module in norms)
        assert all(torch.equal(a, b) for a, b in zip(expected, net(x), strict=True))
