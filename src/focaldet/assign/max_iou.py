"""Maximum IoU, the assignment of RetinaNet (Lin et al., ICCV 2017, arXiv 1708.02002, section 4).

An anchor belongs to the object with which it has the highest IoU. It is positive from ``positive_iou`` on, background
below ``negative_iou``, and ignored in between. With ``low_quality``, the best anchors of each object are also positive,
however low their IoU is.

Ties are broken the same way on every device. Of objects with equal IoU, the lower index gets the anchor. All anchors
that tie for the best of an object are positive, and each belongs to the object with which *it* has the highest IoU,
which may be another one (as in the matchers of torchvision and Detectron2; mmdetection assigns them to the object that
they are best for). An object that overlaps no anchor gets none.

Anchors of one shape form a lattice, so those with a given IoU with an object lie in a rectangle around its centre. The
best IoU is bounded before any IoU is computed, and no (anchors x objects) matrix is built.
"""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from focaldet.assign.claims import claim, ignore_unknown
from focaldet.assign.windows import CHUNK, check_plain, locations_within, own_columns_and_rows
from focaldet.boxes.anchors import check_levels, chosen_anchors
from focaldet.boxes.formats import box_centers
from focaldet.boxes.iou import paired_iou
from focaldet.boxes.locations import Lattice
from focaldet.structures import BACKGROUND, IGNORED, Assignment, GroundTruth

ROUNDING_PX, ROUNDING = 1e-2, 1e-3
"""Bounds on float32 rounding errors: of the overlap along an axis (pixels) and of the IoU (relative). The search uses
them as margins; each anchor found is then tested by its IoU."""


@torch.no_grad()
def assign_max_iou(
    truth: GroundTruth,
    lattice: Lattice,
    shapes_px: Float[Tensor, "L A 2"],
    *,
    positive_iou: float = 0.5,
    negative_iou: float = 0.4,
    low_quality: bool = True,
    image_sizes: Int64[Tensor, "B 2"] | None = None,
) -> Assignment:
    """Assign the objects of a batch to the anchors of a pyramid.

    Args:
        truth: the objects of the batch.
        lattice: the locations.
        shapes_px: width and height of the A anchors of each level (`focaldet.boxes.anchors.anchor_shapes`).
        positive_iou: lowest IoU of a positive anchor.
        negative_iou: anchors whose IoU with every object is lower are background.
        low_quality: also make the best anchors of each object positive.
        image_sizes: (height, width) of each image's content if the batch is padded. Anchors in the padding are ignored,
            and the result for each image is the same as without padding.

    Returns:
        ``matched_gt`` over the ``B x (P A)`` anchors, in the order of `focaldet.boxes.anchors.grid_anchors`.

    Raises:
        ValueError: not 0 < ``negative_iou`` <= ``positive_iou``, the lattice and the shapes have different numbers of
            levels, or the lattice has steps or a shift.

    >>> from focaldet.boxes.anchors import anchor_shapes
    >>> box = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    >>> no_box, zero = torch.zeros(0, 4), torch.zeros(1, dtype=torch.int64)
    >>> truth = GroundTruth(box, zero, zero, 1, no_box, zero[:0])
    >>> lattice = Lattice(((8, 8), (4, 4)), (8, 16))
    >>> assign_max_iou(truth, lattice, anchor_shapes(lattice.strides)).matched_gt.ge(0).sum()  # of 720 anchors
    tensor(44)
    """
    if not 0 < negative_iou <= positive_iou:
        raise ValueError(f"expected 0 < negative_iou <= positive_iou, got {negative_iou} and {positive_iou}")
    check_plain(lattice)
    check_levels(lattice, shapes_px)
    boxes, image_of_gt = truth.boxes_xyxy, truth.image_index
    num_shapes = shapes_px.shape[1]
    num_anchors = lattice.num_locations * num_shapes  # per image
    matched = torch.full((truth.num_images * num_anchors,), BACKGROUND, dtype=torch.int64, device=boxes.device)
    best = torch.full(matched.shape, -1.0, device=boxes.device)

    columns_and_rows = own_columns_and_rows(lattice, image_of_gt, image_sizes)
    windows, sure = _windows(boxes, columns_and_rows, lattice, shapes_px, negative_iou, low_quality)
    level, shape, gt_of_window, reach = windows
    near = []  # anchor, object and IoU of pairs that may be the best of their object
    centers, own_locations = box_centers(boxes.double())[gt_of_window], columns_and_rows[gt_of_window, level]
    for window, location, points in locations_within(lattice, level, centers, reach, own_locations):
        gt, half = gt_of_window[window], shapes_px[level[window], shape[window]] / 2
        iou = paired_iou(torch.cat([points - half, points + half], dim=-1), boxes[gt])
        anchor = image_of_gt[gt] * num_anchors + location * num_shapes + shape[window]
        enough, candidate = iou >= negative_iou, (iou >= sure[gt]) & (iou > 0)
        claim(matched, best, anchor[enough], gt[enough], iou[enough])
        near.append((anchor[candidate], gt[candidate], iou[candidate]))

    between = (best >= negative_iou) & (best < positive_iou)
    if low_quality and near:
        anchor, gt, iou = (torch.cat(parts) for parts in zip(*near, strict=True))
        best_of_gt = torch.zeros_like(sure, dtype=iou.dtype).scatter_reduce_(0, gt, iou, "amax")
        chosen = torch.unique(anchor[iou == best_of_gt[gt]])
        between[chosen] = False
        weak = chosen[best[chosen] < negative_iou]  # these may overlap objects that have not been examined
        of_image = chosen_anchors(lattice, shapes_px, weak % num_anchors)
        matched[weak] = _most_overlapped(of_image, weak // num_anchors, truth)
    matched.masked_fill_(between, IGNORED)
    matched = matched.view(truth.num_images, -1)
    ignore_unknown(matched.view(truth.num_images, lattice.num_locations, -1), truth, lattice, image_sizes)
    return Assignment(matched)


def _windows(
    boxes_xyxy: Float[Tensor, "G 4"],
    columns_and_rows: Int64[Tensor, "G L 2"],
    lattice: Lattice,
    shapes_px: Float[Tensor, "L A 2"],
    negative_iou: float,
    low_quality: bool,
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Float64[Tensor, " G"]]:
    """Windows of the anchors that may have an IoU of ``negative_iou`` with an object or be its best.

    Along each axis, the overlap of two boxes is ``min(smaller side, mean side - distance of the centres)``. So among
    the anchors of one shape, the one nearest to the centre has the highest IoU. An IoU requires an intersection:

        IoU >= t   <=>   intersection >= t / (1 + t) * (sum of the areas)

    With the largest possible overlap along one axis, this bounds the distance along the other.

    Returns:
        Level, shape, object and reach (x, y) of N windows, ordered by object; and a lower bound on the best IoU of each
            object.
    """
    strides = torch.tensor(lattice.strides, device=boxes_xyxy.device)[:, None]
    position = box_centers(boxes_xyxy.double())[:, None] / strides - lattice.offset
    nearest = position.round().clamp(min=0).minimum(columns_and_rows - 1)
    distance = ((position - nearest).abs() * strides)[:, :, None]  # (G, L, 1, 2)
    sides, gt_sides = shapes_px.double(), (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).double()[:, None, None]
    smaller, mean = torch.minimum(sides, gt_sides).clamp(min=0), (sides + gt_sides) / 2  # (G, L, A, 2)
    areas = sides.prod(dim=-1) + gt_sides.prod(dim=-1)  # (G, L, A)

    def nearest_iou(overlap: Float64[Tensor, "G L A 2"]) -> Float64[Tensor, "G L A"]:
        intersection = overlap.prod(dim=-1)
        return intersection / (areas - intersection)

    overlap = torch.minimum(smaller, mean - distance + ROUNDING_PX).clamp(min=0)
    highest = nearest_iou(overlap)
    lowest = nearest_iou(torch.minimum(smaller, mean - distance - ROUNDING_PX).clamp(min=0))
    sure = lowest.amax(dim=(1, 2)) * (1 - ROUNDING)
    wanted = torch.full_like(sure, negative_iou * (1 - ROUNDING))
    if low_quality:
        wanted = wanted.minimum(sure)

    possible = (highest > 0) & (highest >= wanted[:, None, None])
    gt, level, shape = possible.nonzero(as_tuple=True)
    needed = (wanted / (1 + wanted))[gt, None] * areas[possible][:, None] / overlap[possible].flip(-1)
    return (level, shape, gt, mean[possible] - needed + ROUNDING_PX), sure


def _most_overlapped(
    anchors_xyxy: Float[Tensor, "K 4"], image: Int64[Tensor, " K"], truth: GroundTruth
) -> Int64[Tensor, " K"]:
    """For each of K anchors, the object of its image with the highest IoU."""
    num_gt = torch.bincount(truth.image_index, minlength=truth.num_images)
    first = num_gt.cumsum(dim=0) - num_gt
    number = torch.arange(int(num_gt.max()), device=image.device)
    matched = torch.empty_like(image)
    num_rows = max(1, CHUNK // len(number))
    for start in range(0, len(image), num_rows):
        rows = slice(start, start + num_rows)
        of_image = image[rows, None]
        gt = (first[of_image] + number).clamp(max=len(truth.image_index) - 1)
        iou = paired_iou(anchors_xyxy[rows, None], truth.boxes_xyxy[gt])
        # argmax returns the first of equal values.
        matched[rows] = first[image[rows]] + iou.masked_fill(number >= num_gt[of_image], -1.0).argmax(dim=1)
    return matched
