"""The dense head: two towers shared by all levels, and the output convolutions. All methods use this class."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from focaldet.models.conv3x3 import Conv3x3
from focaldet.models.fused_norm import GroupNormReLU
from focaldet.structures import HeadOutputs


class Scale(nn.Module):
    """A learnable factor for one level."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class DistributionQuality(nn.Module):
    """Predicts box quality from the shape of the four distributions (GFLv2, arXiv 2011.12885, section 3.2).

    Args:
        num_bins: number of bins per side.
        top: number of largest probabilities per side; these and their mean are the features.
        hidden: width of the hidden layer.
    """

    def __init__(self, num_bins: int, *, top: int = 4, hidden: int = 64) -> None:
        super().__init__()
        self.num_bins, self.top = num_bins, min(top, num_bins)
        self.layers = nn.Sequential(
            nn.Conv2d(4 * (self.top + 1), hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, 1, 1)
        )

    def init_hidden(self) -> None:
        """Initialise the hidden layer so that its outputs have the scale of its inputs.

        With weights of .01, as in the authors' code, the first AdamW steps push the hidden units below 0, where the
        ReLU
        keeps them: in 400 steps on BCCD, the quality stayed at .529 for every box (docs/adr/0009).
        """
        nn.init.kaiming_normal_(self.layers[0].weight, nonlinearity="relu")  # type: ignore[arg-type]

    def forward(self, side_logits: Tensor) -> Tensor:
        """Logits of the distributions ``(B, 4 K, H, W)`` to quality logits ``(B, 1, H, W)``."""
        batch, _, height, width = side_logits.shape
        probs = side_logits.reshape(batch, 4, self.num_bins, height, width).softmax(dim=2)
        largest = probs.topk(self.top, dim=2).values
        quality: Tensor = self.layers(torch.cat([largest, largest.mean(dim=2, keepdim=True)], dim=2).flatten(1, 2))
        return quality


class DenseHead(nn.Module):
    """Predicts class logits and box parameters at every location of every level.

    Args:
        channels: number of channels of the pyramid and the towers.
        num_classes: C; there is no background class.
        num_box_channels: D, number of parameters per box (4 x bins for distributions).
        num_anchors: A, number of anchors per location.
        num_levels: L; each level has its own factor on the box parameters.
        depth: number of convolutions in each tower.
        prior_prob: initial class probability at every location (focal loss paper, section 3.3). Without this prior, the
            background dominates the first steps.
        quality_branch: optional third output: ``"centerness"``, or ``"distribution"``, computed from the distributions.
        quality_on: tower that the centerness is predicted from.
        tower_norm: group norm after each convolution of the towers, or none.
        tower_bias: give the convolutions a bias even before group norm. Without norm they always have one.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_box_channels: int,
        *,
        num_anchors: int = 1,
        num_levels: int = 5,
        depth: int = 4,
        prior_prob: float = 0.01,
        quality_branch: Literal["none", "centerness", "distribution"] = "none",
        quality_on: Literal["box", "class"] = "box",
        tower_norm: Literal["group", "none"] = "group",
        tower_bias: bool = False,
    ) -> None:
        super().__init__()
        self.quality_on = quality_on
        self.class_tower = Tower(channels, depth, tower_norm, tower_bias)
        self.box_tower = Tower(channels, depth, tower_norm, tower_bias)
        # These module names are keys of saved weights and must not change.
        self.class_logits = Conv3x3(channels, num_anchors * num_classes)
        self.box_outputs = Conv3x3(channels, num_anchors * num_box_channels)
        self.scales = nn.ModuleList(Scale() for _ in range(num_levels))
        self.centerness = Conv3x3(channels, num_anchors) if quality_branch == "centerness" else None
        self.quality = DistributionQuality(num_box_channels // 4) if quality_branch == "distribution" else None

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.constant_(self.class_logits.bias, -math.log((1 - prior_prob) / prior_prob))  # type: ignore[arg-type]
        if self.quality is not None:
            self.quality.init_hidden()

    def forward(self, pyramid: list[Tensor]) -> HeadOutputs:
        """Maps of the pyramid to raw maps of every level."""
        class_features, box_features = self.class_tower(pyramid), self.box_tower(pyramid)
        class_logits = self.class_logits.of_levels(class_features)
        unscaled = self.box_outputs.of_levels(box_features)
        box_maps = [scale(level) for scale, level in zip(self.scales, unscaled, strict=True)]
        quality_logits = None
        if self.centerness is not None:
            quality_logits = self.centerness.of_levels(box_features if self.quality_on == "box" else class_features)
        if self.quality is not None:
            quality_logits = [self.quality(level) for level in box_maps]
        return HeadOutputs(class_logits, box_maps, quality_logits)


class Tower(nn.Sequential):
    """``depth`` times 3x3 convolution, group norm (or none) and ReLU, on every level."""

    def __init__(self, channels: int, depth: int, norm: Literal["group", "none"], bias: bool) -> None:
        # 32 groups of at least two channels: with one, the single value of a 1x1 map would be normalised to 0.
        groups = min(math.gcd(32, channels), max(channels // 2, 1))
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers.append(Conv3x3(channels, channels, bias=bias or norm == "none"))
            if norm == "group":
                # Keys of saved weights contain the positions of layers, which must not change.
                layers += [GroupNormReLU(groups, channels), nn.Identity()]
            else:
                layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Maps ``(B, channels, H, W)`` to maps of the same shape."""
        for layer in self:
            levels = layer.of_levels(levels) if isinstance(layer, Conv3x3) else [layer(level) for level in levels]
        return levels
