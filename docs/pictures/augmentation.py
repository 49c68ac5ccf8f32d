"""Draw the pictures of docs/augmentation.md: ``python docs/pictures/augmentation.py --data BCCD``."""

import argparse
from pathlib import Path

from focaldet.data.augmentation import NAMES, Augmentation
from focaldet.data.batching import DetectionDataset, Draw
from focaldet.data.folder import read_folder
from focaldet.engine.augment import training_transform
from focaldet.engine.config import TrainConfig
from focaldet.engine.show import annotated
from focaldet.photos.sheet import draw_sheet

HERE = Path(__file__).parent

STRENGTHS = {"mosaic": 1, "mixup": 1, "copy-paste": 1, "hue": 0.1, "rotate": 15, "blur": 3, "noise": 30, "jpeg": 95}
"""Strengths that are visible on a small picture; the first three apply to every sample."""

PHOTO, EPOCHS = 2, (0, 1, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    folder = read_folder(parser.parse_args().data)
    for part, names in (("mixed", NAMES[:3]), ("changed", NAMES[3:8])):
        rows = []
        for name in names:
            text = str(Augmentation.parse(f"none,{name}={STRENGTHS[name]}"))
            config = TrainConfig(data=str(folder.root), size=224, augment=text)
            samples = DetectionDataset(
                folder.splits["train"], training_transform(config, folder.num_classes), cache_bytes=0
            )
            rows.append([annotated(samples[Draw(epoch, PHOTO)]) for epoch in EPOCHS])
        # Rows of samples become columns with the name above.
        columns = [list(column) for column in zip(*rows, strict=True)]
        sheet = draw_sheet(columns, [f"{name}={STRENGTHS[name]}" for name in names], folder.class_names, cell=224)
        sheet.save(HERE / f"augmentation-{part}.jpg", quality=85)


if __name__ == "__main__":
    main()
