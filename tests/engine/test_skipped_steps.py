"""float16's scaler, on a CPU: torch supports it there too, and Lightning uses it through its plugin."""

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from focaldet.engine.module import NotFiniteError
from focaldet.engine.skipped_steps import SkippedSteps

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:lightning",  # its advice: more workers, a logger
    "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",
)


class Steep(L.LightningModule):
    """A gradient of ``slope`` everywhere, and a loss that is finite."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.slope = slope

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return (self.weight * self.slope).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def trained(slope: float, epochs: int) -> tuple[Steep, list[str], float]:
    """The module, what was said, and the scale at the end."""
    said: list[str] = []
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        plugins=[plugin],
        callbacks=[SkippedSteps(said.append)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Steep(slope)
    trainer.fit(module, DataLoader(torch.zeros(5, 1), batch_size=1))
    assert plugin.scaler is not None
    return module, said, plugin.scaler.get_scale()


def test_steps_beyond_the_range_are_left_out_and_told() -> None:
    module, said, scale = trained(1e34, epochs=2)  # times 65,536 beyond float32; times 32,768, just below
    assert scale == 2**15
    assert said == ["epoch 1: 1 of 5 steps skipped: their gradients exceeded float16 (the loss is now scaled by 32768)"]
    assert module.weight.item() == pytest.approx(-9e34)


def test_nothing_is_said_where_no_step_is_left_out() -> None:
    module, said, _ = trained(2.0, epochs=1)
    assert said == []
    assert module.weight.item() == -10


def test_a_gradient_that_no_scale_makes_finite_ends_the_run() -> None:
    with pytest.raises(NotFiniteError, match="step 20: the gradient is not finite, however small"):
        trained(float("inf"), epochs=9)
