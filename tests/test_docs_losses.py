"""docs/losses.md: its examples run, and it covers every public loss."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import focaldet
from focaldet import functional

PAGE = Path(__file__).parents[1] / "docs" / "losses.md"
BLOCKS = re.findall(r"### ([^\n]*)\n|```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def code(worked: bool) -> str:
    """The examples in order: those before the worked ones, which build on each other, or the worked ones."""
    heads = [i for i, (head, _) in enumerate(BLOCKS) if head]
    blocks = BLOCKS[heads[0] :] if worked else BLOCKS[: heads[0]]
    prelude = "import torch\nimport focaldet\nfrom focaldet import SparseTargets\n" if worked else ""
    return prelude + "\n".join(body for _, body in blocks)


def test_the_examples_run():
    torch.manual_seed(0)
    scope: dict[str, object] = {}
    exec(compile(code(worked=False), str(PAGE), "exec"), scope)
    assert scope["loss"].isfinite().all()


@pytest.mark.slow
def test_the_worked_examples_run(monkeypatch):
    from torchvision.models.detection import retinanet

    monkeypatch.setattr(retinanet, "sigmoid_focal_loss", retinanet.sigmoid_focal_loss)  # put back afterwards
    scope: dict[str, object] = {}
    exec(compile(code(worked=True), str(PAGE), "exec"), scope)
    assert scope["loss"].isfinite()
    assert scope["pred_scores"].grad.abs().sum() > 0
    assert scope["pred_sides"].grad.abs().sum() > 0


def test_what_the_page_says_of_detached_weights():
    """By the formulas of the public code that it names."""
    z = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 0.3, 0, 1, 0, 0.9, 0], dtype=torch.float64)

    def slope(loss: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss.sum(), z)[0]

    def bce(weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return weight * torch.nn.functional.binary_cross_entropy_with_logits(z, target, reduction="none")

    p, is_positive = z.sigmoid(), (y > 0).double()
    mmdet = bce(y * is_positive + 0.75 * (p - y).abs() ** 2 * (1 - is_positive), y)
    detached = bce(0.75 * p.detach() ** 2 * (1 - is_positive) + y, y)
    deim = bce(p.detach() ** 1.5 * (1 - is_positive) + is_positive, y**1.5)
    torch.testing.assert_close(slope(focaldet.varifocal_loss(z, y)), slope(mmdet))
    torch.testing.assert_close(slope(focaldet.matchability_aware_loss(z, y)), slope(deim))
    example = re.search(r"^weight = torch.where.*\n", PAGE.read_text(), re.M)[0]
    scope = {"torch": torch, "z": z, "y": y}
    exec(example, scope)
    torch.testing.assert_close(slope(focaldet.binary_cross_entropy(z, y, weight=scope["weight"])), slope(detached))
    at_half = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    ratio = slope_at(at_half, focaldet.varifocal_loss) / (0.75 * 0.5**2 * 0.5)
    assert f"{float(ratio):.1f} times the gradient" in PAGE.read_text()


def slope_at(z: torch.Tensor, loss: Callable[..., torch.Tensor]) -> torch.Tensor:
    return torch.autograd.grad(loss(z, torch.zeros_like(z)).sum(), z)[0]


def test_every_public_loss_is_described():
    text = PAGE.read_text()
    for name in functional.__all__:
        if name.islower():
            assert f"{name}(" in text, name


def test_every_picture_is_there():
    for picture in re.findall(r"!\[[^]]*\]\(([^)]*)\)", PAGE.read_text()):
        assert (PAGE.parent / picture).exists(), picture
