"""`focaldet bench step`: where the time of a training step goes on this machine."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from focaldet.data.digits import make_digits
from focaldet.data.folder import read_folder
from focaldet.engine.beginning import first_detector
from focaldet.engine.config import TrainConfig
from focaldet.engine.devices import choose_device, describe_device
from focaldet.engine.hardware import choose_precision
from focaldet.engine.module import DetectionModule
from focaldet.engine.step_clock import BETWEEN
from focaldet.engine.train import fit
from focaldet.methods.targets import TrainingBatch

WARM_UP = 5
"""Number of first steps that do not count: in them, a device chooses algorithms and loads kernels."""


class TimedModule(DetectionModule):
    """Forgets the first steps."""

    warm = False

    def on_train_batch_end(self, outputs: Any, batch: TrainingBatch, batch_index: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_index)
        if not self.warm and self.clock.steps == WARM_UP:
            self.clock.total.clear()
            self.clock.steps, self.warm = 0, True


def time_steps(config: TrainConfig, *, say: Callable[[str], None] = print) -> TimedModule:
    """Train for the minutes of a configuration, and print the time of each part of a step.

    Args:
        config: settings; without ``data``, photos of digits are generated. The run folder and its model are removed.
        say: prints a line.
    """
    with TemporaryDirectory() as folder:
        data = config.data or str(Path(folder, "digits"))
        if not config.data:
            make_digits(Path(data), seed=0)
        config = replace(config, data=data, out=str(Path(folder, "run")), profile=True)
        photos = read_folder(data)
        photos = replace(photos, splits={"train": photos.splits["train"]})
        spec, net, method = first_detector(config, photos.class_names)
        module = TimedModule(net, method, config, offset=spec.offset)
        say(
            f"{config.method}, {config.backbone}, {config.size} px, {config.images_per_step} images per step, "
            f"{choose_precision(config)}, on {describe_device(choose_device(config.device, config.method))}"
        )
        fit(config, photos, spec, module, say=lambda _: None)
    say(module.clock.table())
    if module.clock.steps:
        a_second = module.clock.steps / sum(part for name, part in module.clock.total.items() if name != BETWEEN)
        say(f"{a_second:.2f} steps/s, {a_second * config.images_per_step:.1f} images/s")
    return module
