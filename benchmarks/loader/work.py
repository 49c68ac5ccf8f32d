"""python -m benchmarks.loader.work NAME DATA: the speed of one loader, as a line of JSON.

Each loader runs in a separate process, so that none inherits another's memory or threads. It reads the same JPEG files
from disk, augments them, and collates batches of 8, in 2 workers. Prints photos per second, milliseconds of processor
time per photo, including workers, and the mean height and width of its images.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

BATCH, WORKERS, SIZE = 8, 2, 640

WARM_UP = 40
"""Batches before the measurement: more than the workers prepare ahead."""


def ours(data: Path, *, cache: bool) -> Iterable[Any]:
    """The loader of ``focaldet train --size 640``, with the targets of GFL."""
    from torch.utils.data import DataLoader

    from focaldet.data.batching import DetectionDataset, TrainingSampler
    from focaldet.data.folder import read_folder
    from focaldet.data.transforms import TrainTransform
    from focaldet.engine.interruption import begin_worker
    from focaldet.engine.spec import ModelSpec
    from focaldet.methods.targets import TargetCollate

    folder = read_folder(data)
    net, method = ModelSpec("gfl", folder.class_names, "regnetx_002", SIZE, 64, 2).build()
    transform = TrainTransform(SIZE, strength="light")
    dataset = DetectionDataset(folder.splits["train"], transform, cache_bytes=1 << 32 if cache else 0)
    assert dataset.cached == cache
    return DataLoader(
        dataset,
        batch_size=BATCH,
        sampler=TrainingSampler(len(dataset), batch_size=BATCH, seed=0),
        collate_fn=TargetCollate(method, net, 0.5),
        num_workers=WORKERS,
        worker_init_fn=begin_worker,
        persistent_workers=True,
    )


def torchvision(data: Path) -> Iterable[Any]:
    """The ``lsj`` preset of torchvision's references/detection, at 640 px: PIL, tensors, its transforms v2."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    from focaldet.data.folder import read_folder

    records = read_folder(data).splits["train"]
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.ScaleJitter((SIZE, SIZE), antialias=True),
            v2.RandomCrop((SIZE, SIZE), pad_if_needed=True, fill=123),
            v2.RandomHorizontalFlip(0.5),
            v2.ToDtype(torch.float32, scale=True),
            v2.SanitizeBoundingBoxes(),
            v2.ToPureTensor(),
        ]
    )

    class Photos(Dataset[Any]):
        def __len__(self) -> int:
            return len(records)

        def __getitem__(self, index: int) -> Any:
            record = records[index]
            photo = Image.open(record.path).convert("RGB")
            size = (record.height, record.width)
            boxes = tv_tensors.BoundingBoxes(torch.from_numpy(record.boxes_xyxy), format="XYXY", canvas_size=size)
            return transform(photo, {"boxes": boxes, "labels": torch.from_numpy(record.labels)})

    def collate(batch: list[Any]) -> Any:
        photos, targets = zip(*batch, strict=True)
        return torch.stack(photos), targets

    options: dict[str, Any] = {"batch_size": BATCH, "num_workers": WORKERS, "persistent_workers": True}
    return DataLoader(Photos(), shuffle=True, drop_last=True, collate_fn=collate, **options)


def ultralytics(data: Path, *, mosaic: float, cache: bool) -> Iterable[Any]:
    """The loader of ``yolo train imgsz=640``: OpenCV, its augmentation with or without mosaic."""
    import yaml
    from ultralytics.cfg import get_cfg
    from ultralytics.data.build import build_dataloader, build_yolo_dataset
    from ultralytics.utils import LOGGER

    LOGGER.setLevel("ERROR")
    file = next(iter(sorted(data.glob("*.yaml"))))
    names = yaml.safe_load(file.read_text())
    config = get_cfg(overrides={"imgsz": SIZE, "mosaic": mosaic, "cache": "ram" if cache else False, "task": "detect"})
    names["path"] = str(data)
    train = data / names["train"]
    dataset = build_yolo_dataset(config, str(train), BATCH, names, mode="train", rect=False, stride=32)
    return build_dataloader(dataset, BATCH, WORKERS, shuffle=True)


LOADERS: dict[str, Callable[[Path], Iterable[Any]]] = {
    "focaldet": lambda data: ours(data, cache=False),
    "torchvision lsj": torchvision,
    "ultralytics without mosaic": lambda data: ultralytics(data, mosaic=0.0, cache=False),
    "ultralytics": lambda data: ultralytics(data, mosaic=1.0, cache=False),
    "focaldet, photos in memory": lambda data: ours(data, cache=True),
    "ultralytics without mosaic, photos in memory": lambda data: ultralytics(data, mosaic=0.0, cache=True),
}
"""Name -> its loader on a folder in YOLO format."""


def measured(loader: Iterable[Any], photos: int) -> tuple[float, float, float, float]:
    """Photos per second, milliseconds of processor time per photo, mean height and width, once the workers run."""
    batches = endless(loader)
    for _ in range(WARM_UP):
        next(batches)
    count, height, width = 0, 0, 0
    begin, used = time.perf_counter(), cpu_seconds()
    while count < photos:
        batch = next(batches)
        images = batch["img"] if isinstance(batch, dict) else batch[0]
        count += len(images)
        height, width = height + len(images) * images.shape[2], width + len(images) * images.shape[3]
    seconds, used = time.perf_counter() - begin, cpu_seconds() - used
    return count / seconds, 1e3 * used / count, height / count, width / count


def endless(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def cpu_seconds() -> float:
    """Processor time of this process and its workers (Linux)."""
    processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    fields = [Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split() for process in processes]
    return sum(int(user) + int(system) for *_, user, system in (own[:13] for own in fields)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=LOADERS)
    parser.add_argument("data", type=Path, help="folder in YOLO format")
    parser.add_argument("--photos", type=int, default=800)
    given = parser.parse_args()
    print(json.dumps(measured(LOADERS[given.name](given.data), given.photos)))


if __name__ == "__main__":
    main()
