"""The training step: what Lightning drives."""

import math
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from focaldet.boxes.locations import Lattice
from focaldet.checks import InputError, first_not_finite
from focaldet.data.batching import Batch
from focaldet.engine.average import MovingAverage
from focaldet.engine.config import TrainConfig
from focaldet.engine.step_clock import BETWEEN, StepClock
from focaldet.engine.step_terms import READ_EVERY, StepTerms
from focaldet.methods.method import Method
from focaldet.methods.normalizer import mean_over_processes, process_count
from focaldet.methods.targets import Targets, TrainingBatch, make_targets
from focaldet.models.backbone import freeze_batch_norm
from focaldet.models.detector import DenseDetector

FINAL_LR = 0.01
"""Of the peak, at the end of the cosine."""


class NotFiniteError(InputError):
    """A loss became infinite, or not a number: the training has diverged."""


class DetectionModule(L.LightningModule):
    """A detector with its losses, its optimiser and the moving average of its weights.

    Args:
        net: what is trained.
        method: assignment and losses.
        config: of the run.
        offset: centre of a cell, in strides.
    """

    def __init__(self, net: DenseDetector, method: Method, config: TrainConfig, *, offset: float = 0.5) -> None:
        super().__init__()
        self.net = net
        self.method = method
        self.config = config
        self.offset = offset
        self._freeze()  # before DDP looks at which parameters have a gradient
        self.average = MovingAverage(net, config.ema)
        self.learning_rate = 0.0
        self.progress = 0.0
        """Share of the run that is done, in [0, 1]; the schedule follows it."""
        self.terms = StepTerms()
        self.counts = [0, 0, 0]
        """Objects of the epoch so far, those without a positive, and those with a side beyond reach."""
        self.clock = StepClock(torch.cuda.synchronize if config.profile and torch.cuda.is_available() else None)

    @property
    def average_net(self) -> DenseDetector:
        """The network with the averaged weights: what is evaluated and kept."""
        return self.average.module

    def training_step(self, batch: TrainingBatch, batch_index: int) -> Tensor:
        outputs = self.net(batch.images)
        self.clock.mark("forward")
        targets = self._targets(batch, outputs.level_shapes)
        self.clock.mark("assign")
        with torch.autocast(batch.images.device.type, enabled=False):
            terms = self.method.losses(outputs, targets.assignment, targets.positives)
            loss = torch.stack(list(terms.values())).sum()
        whole = mean_over_processes(torch.stack([term.detach() for term in terms.values()]))
        self.terms.add(self.global_step, {"loss": whole.sum()} | dict(zip(terms, whole, strict=True)))
        for index, count in enumerate((targets.num_objects, targets.num_unmatched, targets.num_beyond_reach)):
            self.counts[index] += count
        self.clock.mark("loss")
        if batch_index % READ_EVERY == 0:
            self.read_terms()
        self.clock.mark("log")
        return loss

    def _targets(self, batch: TrainingBatch, level_shapes: tuple[tuple[int, int], ...]) -> Targets:
        """Those of the batch; made here where it has none, or the backbone's maps have other shapes than most have."""
        if batch.targets is not None and batch.targets.lattice.level_shapes == level_shapes:
            return batch.targets
        lattice = Lattice(level_shapes, self.net.strides, self.offset)
        return make_targets(self.method, batch.truth, lattice, batch.valid_sizes).to(batch.images.device)

    def on_after_backward(self) -> None:
        self.clock.mark("backward")

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        # Lightning will not clip for a fused optimiser in mixed precision: for the scaler, which bfloat16 has not.
        if self.config.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)  # the closure in it does all of the above
        self.clock.mark("update")

    def read_terms(self) -> None:
        """Look at the losses of the steps since the last call, and write them where they are followed.

        Raises:
            NotFiniteError: one is infinite, or not a number.
        """
        bad = self.terms.read()
        if bad is not None:
            if self.global_rank:  # all processes have the same terms and stop here; the first one says it
                raise SystemExit(0)
            raise NotFiniteError(
                f"step {bad.step}: the {bad.name} loss is {bad.value}; try a lower --lr, or "
                "--precision 32-true; weights that the run has kept so far stay in it"
            )
        for logger in self.loggers:
            logger.log_metrics(self.shown, step=self.global_step)

    @property
    def shown(self) -> dict[str, float]:
        """The learning rate, and the losses that were read last."""
        return {"lr": self.learning_rate} | self.terms.last

    def stop_unless_weights_finite(self) -> None:
        """Look at the losses that nobody has looked at yet, and at the weights and the optimiser's moments, before they
        are kept; the losses of the last step are of the weights before it.

        Raises:
            NotFiniteError: one holds infinity or what is not a number.
        """
        self.read_terms()
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.named_parameters()}
        optimizer = self.trainer.optimizers[0]
        moments = {
            f"{key} of {names[parameter]}": value
            for parameter, state in optimizer.state.items()
            for key, value in state.items()
        }
        name = first_not_finite(self.state_dict() | moments)
        if name is None:
            return
        if self.global_rank:  # as above
            raise SystemExit(0)
        raise NotFiniteError(
            f"step {self.global_step}: {name} holds infinity or what is not a number; try a lower --lr, or --precision "
            "32-true; weights that the run has kept so far stay in it"
        )

    def on_train_start(self) -> None:
        # A resumed run has the optimiser's state of before, with the options of now.
        groups = self.optimizers().param_groups  # type: ignore[union-attr]
        for group, (lr, decay) in zip(groups, self.parameter_groups(), strict=True):
            group["peak_lr"], group["weight_decay"] = lr, decay
        self.clock.restart()

    def on_train_epoch_start(self) -> None:
        self.clock.mark(BETWEEN)
        self._freeze()  # Lightning has just put all modules in training mode

    def _freeze(self) -> None:
        if self.config.frozen_stages:
            self.net.backbone.freeze_stages(self.config.frozen_stages)
        if self.config.freeze_norm:
            freeze_batch_norm(self.net.backbone)

    def on_train_batch_start(self, batch: TrainingBatch, batch_index: int) -> None:
        self.clock.mark("load")
        step, config = self.global_step, self.config
        of_epoch = int(self.trainer.num_training_batches)
        steps = of_epoch * (self.trainer.max_epochs or 1)
        if config.minutes is None:
            # By epochs: a run that is resumed with another batch has had other steps.
            self.progress = (self.current_epoch * of_epoch + batch_index) / max(steps, 1)
            warmup = min(config.warmup, max(1, int(steps / 10)))
        else:
            warmup = config.warmup
        factor = min(1.0, (step + 1) / max(warmup, 1)) * schedule(self.progress)
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = group["peak_lr"] * factor
        self.learning_rate = group["lr"]

    def on_train_batch_end(self, outputs: Any, batch: TrainingBatch, batch_index: int) -> None:
        self.clock.steps += 1
        self.clock.mark("log")  # the callbacks come before this hook
        self.average.update(self.net)
        self.clock.mark("update")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return torch.optim.AdamW(
            [
                {"params": parameters, "lr": lr, "peak_lr": lr, "weight_decay": decay}
                for (lr, decay), parameters in self.parameter_groups().items()
            ],
            fused=self.trainer.precision != "16-mixed",  # there its unscaling would come before the clipping
        )

    def parameter_groups(self) -> dict[tuple[float, float], list[nn.Parameter]]:
        """Peak learning rate and weight decay -> the parameters that have them."""
        config = self.config
        peak = config.lr * math.sqrt(config.batch * process_count() / 8)
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.net.named_parameters():
            lr = peak * (config.backbone_lr if name.startswith("backbone.") else 1.0)
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((lr, decay), []).append(parameter)
        return groups

    def transfer_batch_to_device(
        self, batch: Batch | TrainingBatch, device: torch.device, dataloader_idx: int
    ) -> TrainingBatch:
        # Sizes and boxes stay: they have gone into the targets.
        targets = batch.targets.to(device) if isinstance(batch, TrainingBatch) and batch.targets is not None else None
        return TrainingBatch(batch.images.to(device, non_blocking=True), batch.valid_sizes, batch.truth, targets)


def schedule(progress: float) -> float:
    """Cosine from 1 to ``FINAL_LR``.

    >>> schedule(0.0), round(schedule(1.0), 6)
    (1.0, 0.01)
    """
    return FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
