"""Recording a run: measuring AP, keeping the best weights, and writing ``metrics.jsonl``."""

import contextlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from focaldet.data.batching import DetectionDataset
from focaldet.data.truth import coco_truth
from focaldet.engine.budget import TimeBudget
from focaldet.engine.checkpoints import check_loops
from focaldet.engine.detect import without_detections
from focaldet.engine.detect_windows import detect_photos, room_of
from focaldet.engine.detector import Detector
from focaldet.engine.loggers import log_metrics
from focaldet.engine.module import DetectionModule
from focaldet.engine.spec import ModelSpec, save_model
from focaldet.evaluation.average_precision import Evaluation, average_precision
from focaldet.files import MAX_JSON, cannot_write, parse_json, read_bytes, write_text
from focaldet.methods.targets import ObjectCounts
from focaldet.runtime.results import named_limit
from focaldet.system.memory import peak_memory_mb

Say = Callable[[str], None]


class RunRecorder(Callback):
    """Measures AP, keeps the best weights, and writes a line of ``metrics.jsonl`` for each epoch.

    Args:
        run: the run folder.
        spec: description of the model.
        val: the validation photos, or ``None``.
        every: epochs between two measurements; 0: five measurements per run.
        clock: the run's time budget.
        say: prints a line.
    """

    def __init__(
        self, run: Path, spec: ModelSpec, val: DetectionDataset | None, *, every: int, clock: TimeBudget, say: Say
    ) -> None:
        self.run, self.spec, self.val, self.every, self.clock, self.say = run, spec, val, every, clock, say
        self.best = -1.0
        self.measured = self.without_gain = 0
        self.steps = 0
        self.epoch_start = time.perf_counter()
        self.unmatched = self.beyond_reach = self.objects = 0

    def state_dict(self) -> dict[str, Any]:
        progress = {"best": self.best, "measured": self.measured, "without_gain": self.without_gain}
        return progress | {"class_names": list(self.spec.class_names)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.measured = float(state["best"]), int(state["measured"])
        self.without_gain = int(state.get("without_gain", 0))

    def on_load_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        check_loops(checkpoint, self.run / "last.ckpt", trainer)

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        self.run = Path(trainer.strategy.broadcast(str(self.run)))  # the first process has chosen its number

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, DetectionModule)
        # In an extended run, the same epoch is a smaller share than when AP was last measured.
        self.measured = min(self.measured, math.floor(5 * self._done(trainer, module)))
        if trainer.is_global_zero:
            drop_lines_from(self.run / "metrics.jsonl", trainer.current_epoch)

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.steps = 0
        self.unmatched = self.beyond_reach = self.objects = 0
        self.epoch_start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        counts: ObjectCounts = outputs["result"]
        self.objects += counts.objects
        self.unmatched += counts.unmatched
        self.beyond_reach += counts.beyond_reach
        self.steps += 1

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, DetectionModule)
        module.stop_unless_weights_finite()  # before they are measured and written
        terms = module.terms.take_means()
        counts = torch.tensor([self.objects, self.unmatched, self.beyond_reach], device=module.device)
        counts = trainer.strategy.reduce(counts, reduce_op="sum")
        self.objects, self.unmatched, self.beyond_reach = counts.tolist()
        if not trainer.is_global_zero or not self.steps:
            return
        seconds = time.perf_counter() - self.epoch_start
        memory = peak_memory_mb(module.device)  # before measuring AP: the first line is the peak of training alone
        evaluation = self.measure(module) if self._due(trainer, module) else None
        line = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "minutes": round(self.clock.elapsed_s / 60, 3),
            "lr": max(group["lr"] for group in trainer.optimizers[0].param_groups),
            "train": {name: float(f"{value:.6g}") for name, value in terms.items()},
            "val": None if evaluation is None else evaluation.metrics,
            "images_per_second": round(self.steps * module.config.images_per_step * trainer.world_size / seconds, 2),
            "objects": self.objects,
            "objects_without_positive": self.unmatched,
            "objects_beyond_reach": self.beyond_reach,
            "seconds": {part: round(value / self.steps, 5) for part, value in module.clock.take().items()},
            "peak_memory_mb": round(memory, 1),
        }
        file = self.run / "metrics.jsonl"
        try:
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(line) + "\n")
        except OSError as error:
            raise cannot_write(file, error) from error

    def _due(self, trainer: L.Trainer, module: DetectionModule) -> bool:
        epoch = trainer.current_epoch + 1
        if trainer.should_stop or epoch == trainer.max_epochs:
            return True
        if self.every:
            return epoch % self.every == 0
        return math.floor(5 * self._done(trainer, module, ahead=1)) > self.measured

    def _done(self, trainer: L.Trainer, module: DetectionModule, *, ahead: int = 0) -> float:
        """Share of the run completed after ``ahead`` more epochs."""
        if self.clock.budget_s is not None:
            return min(1.0, self.clock.elapsed_s / self.clock.budget_s)
        return (trainer.current_epoch + ahead) / (trainer.max_epochs or 1)

    def measure(self, module: DetectionModule) -> Evaluation | None:
        """Measure AP of the averaged weights on the validation photos. Keep the weights if they are the best so far or
        no AP can be compared."""
        net = module.average_net
        self.measured = math.floor(5 * module.progress) if self.clock.budget_s is not None else self.measured + 1
        if self.val is None:
            save_model(self.run, self.spec, net)
            return None
        training = net.training
        detector = Detector(self.spec, net, module.method, tiling=self.spec.tiling())
        results = detect_photos(detector, self.val)
        net.train(training)
        truth = coco_truth(self.val.records, self.spec.class_names)
        evaluation = average_precision(truth, results, max_detections=room_of(detector, results))
        ap, ap50 = evaluation.metrics["AP"], evaluation.metrics["AP50"]
        if ap is None or ap50 is None:
            measured, kept = "val AP –", " (no objects in val; these weights are kept)"
        else:
            limit = named_limit(evaluation.max_detections)
            measured = f"val AP {ap:.3f}, AP50 {ap50:.3f}{limit}"
            kept = " (best so far, kept)" if ap >= self.best else ""
            self.without_gain = 0 if ap > self.best else self.without_gain + 1
            self.best = max(self.best, ap)
            log_metrics(module.loggers, evaluation.metrics, module.global_step)
        if kept:
            save_model(self.run, self.spec, net)
        with tqdm.external_write_mode():  # above the progress bar, not in the middle of it
            for problem in self.val.newly_unreadable():
                self.say(without_detections(problem))
            self.say(f"minute {self.clock.elapsed_s / 60:.1f}, epoch {module.current_epoch + 1}: {measured}{kept}")
        return evaluation


def drop_lines_from(file: Path, epoch: int) -> None:
    """Remove the lines of ``metrics.jsonl`` from this epoch on; a resumed run will write them again."""
    if file.exists():
        kept = []
        for line in read_bytes(file, MAX_JSON).decode(errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a kill may have cut the last line
                if parse_json(line)["epoch"] < epoch:
                    kept.append(line + "\n")
        write_text(file, "".join(kept))
