"""Steps whose batch passes through the network in parts, for batches that do not fit into memory."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from focaldet.models.detector import DenseDetector
from focaldet.structures import HeadOutputs


class Parts:
    """Computes the network's maps of a batch, and the gradients of its weights, part by part.

    The losses divide by totals over the batch, which no part knows: the number of positives, or the sum of their
    scores. So the network runs twice. The first pass saves nothing for backward: the losses see the maps of the whole
    batch and give the gradient of each map. In the second pass, each part propagates these gradients to the weights.
    The result is the gradient of the whole batch, except that batch norms use the statistics of a part. It takes about
    a third longer.

    Args:
        net: the network.
        count: number of parts.
    """

    def __init__(self, net: DenseDetector, count: int) -> None:
        self.net, self.count = net, count
        self._images: tuple[Tensor, ...] = ()
        self._maps: list[Tensor] = []

    def forward(self, images: Tensor) -> HeadOutputs:
        """The maps of all images. ``backward`` continues from their gradients."""
        self._images = images.chunk(self.count)
        buffers = list(self.net.buffers())
        before = [buffer.clone() for buffer in buffers]
        with torch.no_grad():
            parts = [self.net(some) for some in self._images]
            torch._foreach_copy_(buffers, before)  # batch norms must count each part only once
        maps = [torch.cat(of_parts).requires_grad_() for of_parts in zip(*map(_maps, parts), strict=True)]
        levels = len(parts[0].class_logits)
        quality = None if parts[0].quality_logits is None else maps[2 * levels :]
        self._maps = maps
        return HeadOutputs(maps[:levels], maps[levels : 2 * levels], quality)

    def backward(self, loss: Tensor, context: Callable[[], AbstractContextManager[object]]) -> None:
        """Add the gradient of a loss of these maps to the weights'.

        Args:
            loss: loss of the maps from ``forward``, scaled if its gradients should be.
            context: context of the network's forward pass (autocast).
        """
        gradients = torch.autograd.grad(loss, self._maps, allow_unused=True)
        used = [index for index, gradient in enumerate(gradients) if gradient is not None]
        pieces = [gradients[index].chunk(self.count) for index in used]
        self._maps = []
        for images, of_part in zip(self._images, zip(*pieces, strict=True), strict=True):
            with context():
                maps = _maps(self.net(images))
            torch.autograd.backward([maps[index] for index in used], of_part)
        self._images = ()


def _maps(outputs: HeadOutputs) -> list[Tensor]:
    return [*outputs.class_logits, *outputs.box_maps, *(outputs.quality_logits or ())]
