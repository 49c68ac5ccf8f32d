"""Drop locations early that cannot be among the best candidates. For CPUs, where sorting is slower than comparing.

If most (location, class) pairs are above the threshold, as with an untrained network or a threshold of 0, millions
would be gathered and sorted for the few thousand that are kept. A GPU sorts them before the host could learn their
number.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def leave_the_worst(
    best: Float[Tensor, "B P"],
    class_logits: list[Tensor],
    place: tuple[Int64[Tensor, " N"], Int64[Tensor, " N"], Int64[Tensor, " N"]],
    most: int,
) -> tuple[Int64[Tensor, " M"], Int64[Tensor, " M"], Float[Tensor, " M"]]:
    """Keep the locations with a class logit among the largest of their image and level.

    Args:
        best: largest class logit of each location.
        class_logits: maps ``(B, A * C, H, W)``.
        place: image, location and level of each of N locations.
        most: number of the largest logits of an image and level; more if some are equal.

    Returns:
        Image and location of the M kept locations, and the smallest class logit that is large enough there.
    """
    image, location, level = place
    if bool(best.isnan().any()):  # a location with NaN has no candidates at all
        return image, location, best.new_full(image.shape, -math.inf)
    least = torch.stack([_last_of_best(of_level, most) for of_level in class_logits], dim=1)[image, level]
    enough = best[image, location] >= least
    return image[enough], location[enough], least[enough]


def _last_of_best(level: Tensor, most: int) -> Float[Tensor, " B"]:
    """The smallest of each image's largest logits on a map."""
    logits = level.flatten(1)
    if logits.shape[1] <= most:
        return logits.new_full((len(logits),), -math.inf)
    return logits.topk(most, sorted=False).values.amin(dim=1)


def near_the_best(values: Float[Tensor, " N"], group: Int64[Tensor, " N"], most: int) -> Int64[Tensor, " M"] | None:
    """Indices of at least the largest values of each group; ``None``: keep all, since few could be dropped.

    >>> near_the_best(torch.tensor([1.0, 3, 2, 5, 3, 4]), torch.tensor([0, 0, 0, 0, 0, 1]), 2)
    tensor([1, 3, 4, 5])
    """
    counts = torch.bincount(group).tolist()
    if max(counts, default=0) <= 2 * most or bool((group[1:] < group[:-1]).any()):
        return None
    last = [
        part.topk(most, sorted=False).values.amin() if len(part) > most else part.new_tensor(-math.inf)
        for part in torch.split(values, counts)
    ]
    return (values >= torch.stack(last)[group]).nonzero()[:, 0]
