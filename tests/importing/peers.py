"""Random weights with which a detector of torchvision finds something in a photo."""

import torch
from torch import nn

from focaldet.importing.torchvision_models import COCO

UNNAMED = [column for column, name in enumerate(COCO) if name in ("__background__", "N/A")]
"""Class-output columns in which a trained network never detects anything."""


@torch.no_grad()
def give_detections(model, photo, seed=0, tiny_variance=None):
    """Batch norms with statistics, towers that keep the scale of the features, last layers with a spread of outputs.

    Args:
        model: a model of torchvision, with 91 columns.
        photo: ``(3, H, W)`` float in [0, 1]; the last layers are scaled so that its outputs spread as asked.
        tiny_variance: give three channels of each batch norm a tiny variance.
    """
    g = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.running_mean.normal_(0, 0.1, generator=g)
            module.running_var.uniform_(0.8, 1.5, generator=g)
            if tiny_variance is not None:
                module.running_var[:3] = tiny_variance
            module.weight.uniform_(0.5, 1.0, generator=g)
            module.bias.normal_(0, 0.1, generator=g)
    for name, module in model.head.named_modules():
        if isinstance(module, nn.Conv2d):
            if ".conv." in name:
                module.weight.normal_(0, (2 / (9 * module.in_channels)) ** 0.5, generator=g)
            if module.bias is not None:
                module.bias.normal_(0, 0.1, generator=g)
    classes, boxes = model.head.classification_head, model.head.regression_head
    last = {"cls_logits": (classes.cls_logits, 1.2), "bbox_regression": (boxes.bbox_reg, 0.4)}
    if hasattr(boxes, "bbox_ctrness"):
        last["bbox_ctrness"] = (boxes.bbox_ctrness, 1.0)
    for module, _ in last.values():
        module.weight.normal_(0, 0.01, generator=g)
        module.bias.zero_()
    images, _ = model.transform([photo])
    outputs = model.head(list(model.backbone(images.tensors).values()))
    for name, (module, spread) in last.items():
        module.weight.mul_(spread / outputs[name].std())
    bias = classes.cls_logits.bias.view(-1, len(COCO))
    bias.normal_(-4.0 if "bbox_ctrness" in last else -5.0, 0.5, generator=g)
    bias[:, UNNAMED] = -30.0
    if "bbox_ctrness" in last:
        boxes.bbox_reg.bias.fill_(2.0)  # sides of two strides
    return model
