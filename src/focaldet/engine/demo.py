"""The built-in example: generate a data set and train a detector on it in a few minutes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from focaldet.data.digits import make_digits
from focaldet.data.folder import read_folder
from focaldet.engine.config import TrainConfig
from focaldet.engine.evaluate import evaluate_split
from focaldet.engine.train import train
from focaldet.folders import check_out, make_numbered


def run_demo(out: Path, *, minutes: float = 3.5, seed: int = 0, say: Callable[[str], None] = print) -> Path:
    """Place handwritten digits on photos, train a GFL detector on them, and measure it on the test split.

    Args:
        out: folder for ``digits/`` (the data) and ``run-1/``, numbered.
        minutes: training time.

    Returns:
        The run folder.

    Raises:
        InputError: ``out`` holds other files, or cannot be written.
    """
    check_out(out, "a demo")
    data = out / "digits"
    config = TrainConfig(
        data=str(data),
        size=224,
        minutes=minutes,
        pretrained=False,  # the same demo with and without a network
        flips="none",
        augment="none",  # each digit already has its own size, rotation and blur
        seed=seed,
        val_every=1000,  # once, at the end
    )
    say("generating the data set: scikit-learn's handwritten digits on crops of its two photos")
    make_digits(data, seed=seed)
    run = make_numbered(out / "run")
    train(replace(config, out=str(run)), say=say)
    evaluate_split(run, read_folder(data), "test", say=say)
    return run
