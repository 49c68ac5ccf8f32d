"""python -m benchmarks.losses.curves: draw the pictures of docs/losses.md: losses and gradients by probability."""

from pathlib import Path

import torch
from matplotlib import pyplot as plt

import focaldet

PICTURES = Path(__file__).parents[2] / "docs" / "losses"


def loss_and_gradient(loss, p: torch.Tensor, y: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and derivative with respect to the logit at the probabilities ``p``."""
    z = p.logit().requires_grad_()
    value = loss(z, torch.full_like(z, y))
    (grad,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), grad


def draw(name: str, curves: dict[str, tuple[torch.Tensor, torch.Tensor]], p: torch.Tensor, title: str) -> None:
    """Draw two panels: the loss, and its derivative with respect to the logit."""
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for label, pair in curves.items():
        for axes, values in zip(panels, pair, strict=True):
            axes.plot(p, values, label=label)
    for axes, what in zip(panels, ("loss", "derivative w.r.t. the logit"), strict=True):
        axes.set(xlabel="probability p = σ(z)", ylabel=what)
        axes.grid(alpha=0.3)
    panels[0].set_ylim(0, 3)
    panels[0].legend(fontsize="small")
    figure.suptitle(title)
    figure.savefig(PICTURES / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def learning_curves() -> None:
    """Train one neuron that is badly wrong (z = 4 for y = 0) by gradient descent with either cost."""
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for label, loss in (("quadratic", focaldet.quadratic_loss), ("cross entropy", focaldet.binary_cross_entropy)):
        z, outputs = torch.tensor([4.0]), []
        for _ in range(300):
            z = z.detach().requires_grad_()
            (grad,) = torch.autograd.grad(loss(z, torch.zeros(1)).sum(), z)
            z = z - 0.15 * grad
            outputs.append(float(z.detach().sigmoid()))
        axes.plot(outputs, label=label)
    axes.set(xlabel="step", ylabel="output (target 0)", ylim=(0, 1))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(PICTURES / "learning.svg", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    plt.switch_backend("svg")
    plt.rcParams["svg.hashsalt"] = "focaldet"
    PICTURES.mkdir(parents=True, exist_ok=True)
    p = torch.linspace(0.003, 0.997, 400, dtype=torch.float64)
    focal, quality = focaldet.sigmoid_focal_loss, focaldet.quality_focal_loss
    draw(
        "focal",
        {
            f"γ = {gamma:g}": loss_and_gradient(lambda z, y, g=gamma: focal(z, y, alpha=None, gamma=g), p, 1.0)
            for gamma in (0, 0.5, 1, 2, 5)
        },
        p,
        "Focal loss of a positive, without α (γ = 0: cross entropy)",
    )
    draw(
        "quality_focal",
        {f"y = {y:g}": loss_and_gradient(quality, p, y) for y in (0, 0.3, 0.5, 0.8, 1)},
        p,
        "Quality focal loss, β = 2: the minimum is at the label",
    )
    draw(
        "soft_labels",
        {
            "focal, target .7: minimum at .878": loss_and_gradient(lambda z, y: focal(z, y, alpha=None), p, 0.7),
            "quality focal, target .7": loss_and_gradient(quality, p, 0.7),
        },
        p,
        "Soft labels: the minimum of focal loss is not at the label",
    )
    draw(
        "negatives",
        {
            "cross entropy": loss_and_gradient(focaldet.binary_cross_entropy, p, 0.0),
            "focal": loss_and_gradient(lambda z, y: focal(z, y, alpha=None), p, 0.0),
            "varifocal": loss_and_gradient(focaldet.varifocal_loss, p, 0.0),
            "matchability-aware": loss_and_gradient(focaldet.matchability_aware_loss, p, 0.0),
            "quadratic": loss_and_gradient(focaldet.quadratic_loss, p, 0.0),
        },
        p,
        "Negatives: contribution of the easy ones",
    )
    learning_curves()


if __name__ == "__main__":
    main()
