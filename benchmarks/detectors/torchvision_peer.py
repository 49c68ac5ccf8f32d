"""torchvision's RetinaNet and FCOS in our training loop: the same backbone, pyramid, batches, optimiser and evaluation.

Heads (as in ``retinanet_resnet50_fpn_v2`` and ``fcos_resnet50_fpn``, with as many convolutions as ours), anchors,
matching, losses and post-processing are torchvision's. Ignore regions are not supported.
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead

from focaldet.data.batching import DetectionDataset
from focaldet.data.folder import read_folder
from focaldet.data.truth import coco_truth
from focaldet.engine.config import TrainConfig
from focaldet.engine.detect import detect_records
from focaldet.engine.module import DetectionModule
from focaldet.engine.spec import ModelSpec, spec_of
from focaldet.engine.train import fit
from focaldet.evaluation.average_precision import average_precision
from focaldet.files import write_json
from focaldet.methods.fcos import FCOS as OurFCOS
from focaldet.methods.targets import ObjectCounts, TrainingBatch
from focaldet.models.backbone import Backbone, load_backbone_weights
from focaldet.models.fpn import STRIDES, PyramidNeck, backbone_strides
from focaldet.models.postprocess import PostProcessConfig
from focaldet.structures import Detections

PEERS = {"torchvision-retinanet": RetinaNet, "torchvision-fcos": FCOS}


class Features(nn.Module):
    """The backbone for torchvision's detector: the maps of a pyramid whose modules belong to another network."""

    def __init__(self, backbone: Backbone, neck: PyramidNeck, channels: int) -> None:
        super().__init__()
        self.parts = (backbone, neck)  # a tuple, so that they are not registered a second time
        self.out_channels = channels

    def forward(self, images: Tensor) -> "OrderedDict[int, Tensor]":
        backbone, neck = self.parts
        return OrderedDict(enumerate(neck(backbone(images))))


class PeerNet(nn.Module):
    """torchvision's detector, called as our loop calls a network.

    Args:
        name: a key of ``PEERS``.
        spec: sizes of the network.
    """

    def __init__(self, name: str, spec: ModelSpec) -> None:
        super().__init__()
        levels, channels, num_classes = spec.network.levels, spec.channels, len(spec.class_names)
        self.strides = STRIDES[levels]
        self.backbone = Backbone(spec.backbone, backbone_strides(levels))
        self.neck = PyramidNeck(self.backbone.channels, channels)
        fcos = PEERS[name] is FCOS
        sides = [[stride] if fcos else [int(4 * stride * 2 ** (k / 3)) for k in range(3)] for stride in self.strides]
        anchors = AnchorGenerator(
            tuple(map(tuple, sides)), (((1.0,) if fcos else (0.5, 1.0, 2.0)),) * len(self.strides)
        )
        per_location = anchors.num_anchors_per_location()[0]
        if fcos:
            head: Any = FCOSHead(channels, per_location, num_classes, num_convs=spec.head_depth)
        else:
            head = RetinaNetHead(channels, per_location, num_classes, norm_layer=partial(nn.GroupNorm, 32))
            head.regression_head._loss_type = "giou"
            for part in (head.classification_head, head.regression_head):
                part.conv = part.conv[: spec.head_depth]
        self.model = PEERS[name](
            Features(self.backbone, self.neck, channels),
            num_classes,
            anchor_generator=anchors,
            head=head,
            image_mean=self.backbone.mean,
            image_std=self.backbone.std,
            score_thresh=spec.evaluation_score,
            detections_per_img=100,
            size_divisible=1,
        )
        self.model.transform.resize = as_it_is  # its own resizing is active in inference even with _skip_resize
        self.pad_to = 2  # images are evaluated one by one, because padding cannot be passed on
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(()))  # where our loop asks for the device

    def losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Losses of a batch, by torchvision's names."""
        truth = batch.truth
        images = [image[:, :height, :width] for image, (height, width) in zip(batch[0], batch[1].tolist(), strict=True)]
        index = [truth.image_index == i for i in range(truth.num_images)]
        targets = [{"boxes": truth.boxes_xyxy[i], "labels": truth.labels[i]} for i in index]
        terms: dict[str, Tensor] = self.model([image / 255 for image in images], targets)
        return terms

    def forward(self, images: Tensor) -> list[Detections]:
        """Detections of images ``(B, 3, H, W)`` uint8."""
        found = self.model([image / 255 for image in images])
        return [Detections(f["boxes"], f["scores"], f["labels"]) for f in found]


def as_it_is(image: Tensor, target: dict[str, Tensor] | None) -> tuple[Tensor, dict[str, Tensor] | None]:
    """Return an image that has its final size already."""
    return image, target


class PeerModule(DetectionModule):
    """Our training step with torchvision's losses."""

    def training_step(self, batch: TrainingBatch, batch_index: int) -> dict[str, Any]:
        net: Any = self.net
        terms = net.losses(batch)
        loss = torch.stack(list(terms.values())).sum()
        self.record(terms, batch_index)
        self.clock.mark("forward")
        # torchvision does not report which objects have positives: count all as matched.
        return {"loss": loss, "result": ObjectCounts(batch.truth.labels.numel(), 0, 0)}


class AlreadyRead:
    """Replacement for post-processing, which torchvision's detector has done already."""

    config = PostProcessConfig()

    def __call__(self, outputs: list[Detections], sizes: object) -> list[Detections]:
        return outputs


@dataclass(frozen=True)
class PeerSpec(ModelSpec):
    """A spec whose network returns its own detections."""

    def evaluation_postprocess(self, *_: Any) -> Any:
        return AlreadyRead()


def train_peer(name: str, config: TrainConfig) -> Path:
    """Train torchvision's detector with a configuration and measure its AP on the test split.

    Args:
        name: a key of ``PEERS``.
        config: its method, class loss and bins are not used.
    """
    import lightning as L

    folder = read_folder(config.data, seed=config.seed)
    L.seed_everything(config.seed, verbose=False)
    own = spec_of(config, folder.class_names)
    spec = PeerSpec(name, own.class_names, own.backbone, own.size, own.channels, own.head_depth, network=own.network)
    net: Any = PeerNet(name, spec)
    if config.backbone_weights is not None:
        load_backbone_weights(net.backbone, Path(config.backbone_weights))
    module = PeerModule(net.to(memory_format=torch.channels_last), OurFCOS(), config)
    run = fit(config, folder, spec, module, say=lambda line: print(line, flush=True))

    net.load_state_dict(load_file(run / "model.safetensors"))
    dataset = DetectionDataset(folder.splits["test"], spec.transform)
    postprocess: Any = AlreadyRead()
    results = detect_records(net, postprocess, dataset)
    evaluation = average_precision(coco_truth(dataset.records, folder.class_names), results)
    write_json(
        run / "evaluation.json",
        {"split": "test", "metrics": evaluation.metrics, "per_class": evaluation.per_class},
    )
    return run
