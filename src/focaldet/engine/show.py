"""``focaldet data show``: draw training samples as the network will see them."""

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from focaldet.checks import InputError, check_range
from focaldet.data.augmentation import Augmentation
from focaldet.data.batching import DetectionDataset, Draw, Sample
from focaldet.data.records import DataFolder
from focaldet.data.transforms import EvalTransform
from focaldet.engine.augment import training_transform
from focaldet.engine.config import TrainConfig
from focaldet.files import replacing
from focaldet.photos.sheet import Annotated, draw_sheet

BATCH = 8
"""Photos per batch; with multi-scale, they share a size."""

EPOCHS = 4
"""Number of samples of each photo on the sheet."""

MAX_PHOTOS = 50


def write_sheet(
    folder: DataFolder, config: TrainConfig, out: Path, *, photos: int, say: Callable[[str], None] = print
) -> None:
    """Write a sheet of training samples as a PNG file.

    Raises:
        InputError: the name does not end in .png, the file cannot be written, or there is nothing to draw.
    """
    if out.suffix.lower() != ".png":
        raise InputError(f"--out {out}: expected a file whose name ends in .png")
    sheet = sample_sheet(folder, config, photos=photos)
    with replacing(out) as unfinished:
        sheet.save(unfinished, "PNG")
    say(f"{folder.description}; --augment {Augmentation.parse(config.augment)}, --flips {config.flips}")
    say(f"training samples of {min(photos, len(folder.splits['train']))} photos: {out}")


def sample_sheet(folder: DataFolder, config: TrainConfig, *, photos: int) -> Image.Image:
    """Draw photos of the train split, each as evaluation sees it and as training sees it in its first epochs.

    Raises:
        InputError: there is no photo in the train split, or one cannot be read or transformed.
    """
    check_range("--photos", photos, 1, MAX_PHOTOS)
    records = folder.splits.get("train", ())
    if not records:
        raise InputError(f"{folder.root}: no photo in the train split")
    transform = training_transform(config, folder.num_classes)
    trained = DetectionDataset(records, transform, seed=config.seed, cache_bytes=0)
    plain = DetectionDataset(records, EvalTransform(config.size), cache_bytes=0)
    # Photos taken in succession look alike.
    chosen = [len(records) * index // min(photos, len(records)) for index in range(min(photos, len(records)))]
    rows = []
    for photo in chosen:
        draws = [Draw(epoch, photo, photo // BATCH) for epoch in range(EPOCHS)]
        rows.append([annotated(plain[photo]), *(annotated(trained[draw]) for draw in draws)])
    headings = ["without augmentation", *(f"epoch {epoch + 1}" for epoch in range(EPOCHS))]
    return draw_sheet(rows, headings, folder.class_names, cell=max(320, config.size))


def annotated(sample: Sample) -> Annotated:
    """Convert a sample for drawing."""
    image = sample.image.to(torch.uint8).permute(1, 2, 0).numpy()
    return Annotated(image, sample.boxes_xyxy.numpy(), sample.labels.numpy(), sample.ignored_xyxy.numpy())
