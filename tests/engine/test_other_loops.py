"""Loops written for torchvision's detectors train ours after changing the line that builds the model.

The first follows torchvision's reference scripts for detection: the data set with COCO's ids as labels, SGD, a warm-up
by LambdaLR in the first epoch, the sum of the losses, and COCO's evaluation of dicts by image id.
"""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torchvision
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.ops import box_convert
from torchvision.transforms import v2

import focaldet
from focaldet.data.digits import make_digits

TRANSFORMS = v2.Compose(
    [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.SanitizeBoundingBoxes(), v2.ToPureTensor()]
)
NUM_CLASSES = 11
"""COCO's ids 1 to 10, and 0, which torchvision's scripts leave to the background."""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits(tmp_path_factory.mktemp("data") / "digits", train=160, val=32, test=8, size=96)


def coco_set(digits: Path, split: str) -> Any:
    """With the photos that have objects, as in the reference script."""
    whole = CocoDetection(
        str(digits / "images" / split), str(digits / "annotations" / f"{split}.json"), transforms=TRANSFORMS
    )
    labelled = [i for i, number in enumerate(whole.ids) if whole.coco.getAnnIds(imgIds=number)]
    wrapped = wrap_dataset_for_transforms_v2(whole, target_keys=("boxes", "labels", "image_id"))
    return Subset(wrapped, labelled), whole.coco


def loader(dataset: Any, batch: int, *, shuffle: bool) -> "DataLoader[Any]":
    return DataLoader(
        dataset, batch_size=batch, shuffle=shuffle, collate_fn=lambda batch: tuple(zip(*batch, strict=True))
    )


class MetricLogger:
    """Averages over the last steps, as in the reference script."""

    def __init__(self) -> None:
        self.meters: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=20))

    def update(self, **values: float | Tensor) -> None:
        for name, value in values.items():
            self.meters[name].append(value.item() if isinstance(value, Tensor) else value)

    def log_every(self, batches: Iterable[Any]) -> Iterator[Any]:
        yield from batches

    def mean(self, name: str) -> float:
        return sum(self.meters[name]) / len(self.meters[name])


def train_one_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: "DataLoader[Any]", device: torch.device, epoch: int
) -> MetricLogger:
    model.train()
    logger = MetricLogger()
    warmup = None
    if epoch == 0:
        steps = min(1000, len(data) - 1)
        warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / 1000, total_iters=steps)
    for images, targets in logger.log_every(data):
        images = [image.to(device) for image in images]
        targets = [{k: v.to(device) if isinstance(v, Tensor) else v for k, v in t.items()} for t in targets]
        with torch.autocast("cpu", enabled=False):
            loss_dict = model(images, targets)
            losses = sum(loss for loss in loss_dict.values())
        assert math.isfinite(losses.item()), loss_dict
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
        if warmup is not None:
            warmup.step()
        logger.update(loss=losses.detach(), **{k: v.detach() for k, v in loss_dict.items()})
        logger.update(lr=optimizer.param_groups[0]["lr"])
    return logger


@torch.inference_mode()
def evaluate(model: nn.Module, data: "DataLoader[Any]", truth: COCO, device: torch.device) -> float:
    """COCO's AP50."""
    model.eval()
    rows: list[dict[str, Any]] = []
    seen = []
    for images, targets in data:
        outputs = model([image.to(device) for image in images])
        outputs = [{k: v.to("cpu") for k, v in t.items()} for t in outputs]
        results = {target["image_id"]: output for target, output in zip(targets, outputs, strict=True)}
        for image_id, found in results.items():
            seen.append(image_id)
            boxes = box_convert(found["boxes"], "xyxy", "xywh").tolist()
            for box, label, score in zip(boxes, found["labels"].tolist(), found["scores"].tolist(), strict=True):
                rows.append({"image_id": image_id, "category_id": label, "bbox": box, "score": score})
    evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
    evaluation.params.imgIds = seen
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[1])


def ours(method: str = "gfl") -> nn.Module:
    return focaldet.detector(
        method,
        num_classes=NUM_CLASSES,
        backbone="mobilenetv3_small_050",
        size=96,
        levels="p2-p6",
        channels=32,
        head_depth=1,
        num_bins=9,
        pretrained=False,
    )


def theirs() -> nn.Module:
    model: nn.Module = torchvision.models.detection.fcos_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=NUM_CLASSES, min_size=64, max_size=64
    )
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "epochs", "least"), [(ours, 9, 0.1), (lambda: ours("retinanet"), 1, 0.0), (theirs, 1, 0.0)]
)
def test_torchvision_s_reference_loop(build: Callable[[], nn.Module], epochs: int, least: float, digits: Path) -> None:
    torch.manual_seed(0)
    device = torch.device("cpu")
    train_set, _ = coco_set(digits, "train")
    val_set, truth = coco_set(digits, "val")
    if epochs == 1:  # only that it goes through
        train_set, val_set = Subset(train_set, range(4)), Subset(val_set, range(4))
    model = build().to(device)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(params, lr=0.04, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[7], gamma=0.1)
    losses = []
    for epoch in range(epochs):
        logger = train_one_epoch(model, optimizer, loader(train_set, 4, shuffle=True), device, epoch)
        schedule.step()
        losses.append(logger.mean("loss"))
    if epochs == 1:
        model.eval()
        found = model([val_set[0][0]])
        assert {"boxes", "labels", "scores"} <= set(found[0])
        return
    ap50 = evaluate(model, loader(val_set, 1, shuffle=False), truth, device)
    print(f"AP50 {ap50:.3f}, losses {losses}")
    assert losses[-1] < 0.7 * losses[0]
    assert ap50 > least


class Lit(L.LightningModule):
    """The module that everybody writes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.losses: list[float] = []

    def training_step(self, batch: Any, index: int) -> Tensor:
        images, targets = batch
        loss = torch.stack(list(self.model(list(images), list(targets)).values())).sum()
        self.losses.append(float(loss.detach()))
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        images, _ = batch
        assert len(self.model(list(images))) == len(images)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lightning(digits: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    train_set, _ = coco_set(digits, "train")
    few = Subset(train_set, range(8))
    module = Lit(ours())
    trainer = L.Trainer(
        max_epochs=20,
        check_val_every_n_epoch=10,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, loader(few, 4, shuffle=True), loader(few, 4, shuffle=False))
    assert sum(module.losses[-4:]) < 0.5 * sum(module.losses[:4])
    run = focaldet.Run(module.model.save(tmp_path / "run", [str(label) for label in range(NUM_CLASSES)]))
    assert len(run.class_names) == NUM_CLASSES
