"""The training step, as Lightning calls it."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from focaldet.boxes.locations import Lattice
from focaldet.checks import InputError, first_not_finite
from focaldet.data.batching import Batch
from focaldet.engine.average import MovingAverage
from focaldet.engine.budget import TimeBudget
from focaldet.engine.config import TrainConfig
from focaldet.engine.optimizer import lr_factor, parameter_groups
from focaldet.engine.parts import Parts
from focaldet.engine.step_clock import BETWEEN, StepClock
from focaldet.engine.step_terms import READ_EVERY, StepTerms
from focaldet.engine.teacher import Teacher, collate_for
from focaldet.methods.method import Method
from focaldet.methods.normalizer import mean_over_processes, process_count
from focaldet.methods.targets import TargetCollate, Targets, TrainingBatch, losses_of, make_targets
from focaldet.models.backbone import freeze_batch_norm
from focaldet.models.detector import DenseDetector


class NotFiniteError(InputError):
    """A loss or a weight is infinite or not a number: the training has diverged."""


class DetectionModule(L.LightningModule):
    """A detector with its losses, its optimiser and the moving average of its weights.

    Args:
        net: the network to train.
        method: assignment and losses.
        config: settings of the run.
        offset: centre of a cell, in strides.
        teacher: teaches the network, if given; it is not part of the weights.

    Attributes:
        budget: measures the run's time; a callback of the trainer.
        progress: completed share of the run, in [0, 1]; the learning rate follows it.
        terms: losses of the steps, averaged over all processes; ``loss`` is their sum.
        shown: learning rate and last losses that were read, for the progress bar.
    """

    def __init__(
        self,
        net: DenseDetector,
        method: Method,
        config: TrainConfig,
        *,
        offset: float = 0.5,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.method = method
        self.config = config
        self.offset = offset
        self.teacher = teacher
        self.balance = method.balance  # its buffer belongs in checkpoints
        if self.balance is not None:
            self.balance.start(net.num_classes)
        self._freeze()  # before DDP registers the parameters that have a gradient
        self.average = MovingAverage(net, config.ema)
        self.parts = Parts(net, config.accumulate) if config.accumulate > 1 else None
        self.budget = TimeBudget(config.minutes)
        self.progress = self.learning_rate = 0.0
        self.terms = StepTerms()
        self.clock = StepClock(torch.cuda.synchronize if config.profile and torch.cuda.is_available() else None)

    @property
    def average_net(self) -> DenseDetector:
        """The network with the averaged weights, which is evaluated and saved."""
        return self.average.module

    def collate(self) -> TargetCollate:
        """The collate function that makes batches with targets, in any process."""
        return collate_for(self.method, self.net, self.offset, self.teacher)

    def training_step(self, batch: TrainingBatch, batch_index: int) -> dict[str, Any]:
        outputs = self.net(batch.images) if self.parts is None else self.parts.forward(batch.images)
        taught = None if self.teacher is None else self.teacher.look_at(batch.images)
        self.clock.mark("forward")
        targets = self._targets(batch, outputs.level_shapes)
        self.clock.mark("assign")
        with torch.autocast(batch.images.device.type, enabled=False):
            of_teacher: dict[str, Tensor] = {}
            if self.teacher is not None and taught is not None:  # first, because an in-place loss overwrites its logits
                of_teacher = self.teacher.losses(self.method, outputs, taught, targets)
            terms = losses_of(self.method, outputs, targets, self.progress) | of_teacher
            loss = torch.stack(list(terms.values())).sum()
        self.clock.mark("loss")
        self.record(terms, batch_index)
        self.clock.mark("log")
        return {"loss": loss, "result": targets.counts}

    def _targets(self, batch: TrainingBatch, level_shapes: tuple[tuple[int, int], ...]) -> Targets:
        # The batch has no targets, or this backbone rounds the shapes of its maps in an unusual way.
        if batch.targets is None or batch.targets.lattice.level_shapes != level_shapes:
            lattice = Lattice(level_shapes, self.net.strides, self.offset)
            targets = make_targets(self.method, batch.truth, lattice, batch.valid_sizes)
            targets = targets if self.teacher is None else self.teacher.with_valuable(self.method, targets, batch)
            return targets.to(batch.images.device)
        return batch.targets

    def record(self, terms: dict[str, Tensor], batch_index: int) -> None:
        """Average the terms over all processes and record them.

        Args:
            terms: losses by name.
            batch_index: index of the batch in the epoch. Every tenth batch, all recorded terms are read and checked.

        Raises:
            NotFiniteError: a term of the steps since the last reading is infinite or not a number.
        """
        whole = mean_over_processes(torch.stack([term.detach() for term in terms.values()]))
        self.terms.add(self.global_step, {"loss": whole.sum()} | dict(zip(terms, whole, strict=True)))
        if batch_index % READ_EVERY == 0:
            self.read_terms()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if self.parts is None:
            super().backward(loss, *args, **kwargs)
        else:
            self.parts.backward(loss, self.trainer.precision_plugin.forward_context)

    @property
    def shown(self) -> dict[str, float]:
        return {"lr": self.learning_rate} | self.terms.last

    def on_after_backward(self) -> None:
        self.clock.mark("backward")

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        # Lightning refuses to clip for a fused optimiser in mixed precision because of the gradient scaler, which
        # bfloat16 does not use.
        if self.config.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)  # runs the closure, which does all of the above
        self.clock.mark("update")

    def read_terms(self) -> None:
        """Read the losses recorded since the last call, check them, and log the last of them.

        Raises:
            NotFiniteError: one of them is infinite or not a number.
        """
        bad = self.terms.read()
        if bad is not None:
            if self.global_rank:  # all processes have the same terms and stop here; the first one reports it
                raise SystemExit(0)
            raise NotFiniteError(
                f"step {bad.step}: the {bad.name} loss is {bad.value}; try a lower --lr, or "
                "--precision 32-true; the run keeps the weights saved so far"
            )
        for logger in self.loggers:
            logger.log_metrics(self.shown, step=self.global_step)

    def stop_unless_weights_finite(self) -> None:
        """Check the losses not read yet, the weights and the optimiser's moments before they are saved.

        The losses of the last step do not show it: they belong to the weights before that step.

        Raises:
            NotFiniteError: one of them contains infinity or NaN.
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
            f"step {self.global_step}: {name} contains infinity or NaN; try a lower --lr, or --precision 32-true; the "
            "run keeps the weights saved so far"
        )

    def on_train_start(self) -> None:
        # A resumed run restores the optimiser's state but uses its current options.
        groups = self.optimizers().param_groups  # type: ignore[union-attr]
        for group, (lr, decay) in zip(groups, self.parameter_groups(), strict=True):
            group["peak_lr"], group["weight_decay"] = lr, decay
        self.clock.restart()

    def on_train_epoch_start(self) -> None:
        self.clock.mark(BETWEEN)
        self._freeze()  # Lightning has just set all modules to training mode

    def _freeze(self) -> None:
        if self.config.frozen_stages:
            self.net.backbone.freeze_stages(self.config.frozen_stages)
        if self.config.freeze_norm:
            freeze_batch_norm(self.net.backbone)

    def on_train_batch_start(self, batch: TrainingBatch, batch_index: int) -> None:
        self.clock.mark("load")
        self.progress = self.budget.progress(self.trainer, batch_index)
        warmup = self.config.warmup
        if self.config.minutes is None:
            steps = int(self.trainer.num_training_batches) * (self.trainer.max_epochs or 1)
            warmup = min(warmup, max(1, int(steps / 10)))
        factor = lr_factor(self.progress, self.global_step, warmup)
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = group["peak_lr"] * factor
        self.learning_rate = group["lr"]

    def on_train_batch_end(self, outputs: Any, batch: TrainingBatch, batch_index: int) -> None:
        self.clock.steps += 1
        self.clock.mark("log")  # the callbacks run before this hook
        self.average.update(self.net)
        self.clock.mark("update")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return torch.optim.AdamW(
            [
                {"params": parameters, "lr": lr, "peak_lr": lr, "weight_decay": decay}
                for (lr, decay), parameters in self.parameter_groups().items()
            ],
            fused=self.trainer.precision != "16-mixed",  # its fused unscaling would run before the clipping
        )

    def parameter_groups(self) -> dict[tuple[float, float], list[nn.Parameter]]:
        """Parameters by (peak learning rate, weight decay)."""
        config = self.config
        return parameter_groups(
            self.net,
            lr=config.lr,
            batch=config.images_per_step * process_count(),
            backbone_lr=config.backbone_lr,
            weight_decay=config.weight_decay,
        )

    def transfer_batch_to_device(
        self, batch: Batch | TrainingBatch, device: torch.device, dataloader_idx: int
    ) -> TrainingBatch:
        # Sizes and boxes stay on the host: the targets contain what the step needs of them.
        targets = batch.targets.to(device) if isinstance(batch, TrainingBatch) and batch.targets is not None else None
        return TrainingBatch(batch.images.to(device, non_blocking=True), batch.valid_sizes, batch.truth, targets)
