"""From names and numbers to a network and its method: what a run and its ``model.json`` agree on."""

from dataclasses import asdict, dataclass, field
from typing import Any

from focaldet.methods.gfl import GFL
from focaldet.models.backbone import Backbone
from focaldet.models.detector import DenseDetector

METHODS = {"gfl": GFL}
"""Name of a method -> its class."""

FORMAT = 1
"""Of ``model.json``; raised when an older focaldet could not read a new one."""


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed, beside the weights, to make the detector again.

    Args:
        method: a key of ``METHODS``.
        method_options: its fields.
        class_names: C names, in the order of the labels.
        backbone: a network of timm.
        size: longer side of the image that the network sees, pixels.
        channels, head_depth: of pyramid and head.
        offset: centre of a cell, in strides.
    """

    method: str
    class_names: tuple[str, ...]
    backbone: str
    size: int
    channels: int
    head_depth: int
    offset: float = 0.5
    method_options: dict[str, Any] = field(default_factory=dict)

    def build(self, *, pretrained: bool = False) -> tuple[DenseDetector, GFL]:
        """The network, freshly initialised, and its method."""
        method = METHODS[self.method](**self.method_options)
        net = DenseDetector(
            Backbone(self.backbone, pretrained=pretrained),
            len(self.class_names),
            method.box_outputs,
            channels=self.channels,
            head_depth=self.head_depth,
        )
        return net, method

    def to_json(self, strides: tuple[int, ...]) -> dict[str, Any]:
        """What ``model.json`` holds."""
        from focaldet import __version__

        return {"format": FORMAT, "focaldet": __version__, **asdict(self), "strides": list(strides)}
