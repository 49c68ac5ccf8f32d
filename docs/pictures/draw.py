"""Draw the pictures of docs/methods.md: the positive locations, and how each method predicts a box.

    python docs/pictures/draw.py --data ../shared/data/bccd --photo BloodImage_00002.jpg \\
        --run RUN --v2-run RUN --tood-run RUN --rtmdet-run RUN

The runs are a trained GFL, GFLv2, TOOD and RTMDet; their distributions are drawn, and the positives that the
predictions of the last two choose. Pictures of missing runs are left out.
"""

import argparse
from pathlib import Path

import matplotlib
import torch

from focaldet.boxes.coding import encode_distances
from focaldet.boxes.iou import paired_iou
from focaldet.boxes.locations import Lattice, gather_locations
from focaldet.data.batching import DetectionDataset, collate
from focaldet.data.folder import read_folder
from focaldet.data.transforms import EvalTransform
from focaldet.engine.detector import Detector
from focaldet.engine.spec import METHODS
from focaldet.methods.positives import as_positives, find_positives

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SIZE, STRIDES = 320, (8, 16, 32, 64, 128)
CHOSEN = ("tood", "rtmdet")
COLOURS = plt.get_cmap("tab10").colors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--photo", required=True)
    parser.add_argument("--run")
    parser.add_argument("--v2-run")
    parser.add_argument("--tood-run")
    parser.add_argument("--rtmdet-run")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    folder = read_folder(args.data, seed=0)
    records = [r for split in folder.splits.values() for r in split if Path(r.file_name).name == args.photo]
    batch = collate([DetectionDataset(records, EvalTransform(SIZE))[0]])
    if args.run:
        for name in METHODS:
            if name not in ("gflv2", *CHOSEN):
                draw(name, batch, Detector.load(args.run), args.out / f"{name}.jpg")
    if args.v2_run:
        draw_quality(batch, Detector.load(args.v2_run), args.out / "gflv2.jpg")
    for name in CHOSEN:
        if run := getattr(args, f"{name}_run"):
            draw(name, batch, Detector.load(run), args.out / f"{name}.jpg")


def chosen_positives(batch, detector):
    """The positives that the predictions choose."""
    method = detector.method
    with torch.no_grad():
        outputs = detector.net(batch.images)
    lattice = Lattice(outputs.level_shapes, detector.net.strides, detector.spec.offset)
    found = method.candidates(batch.truth, lattice, batch.valid_sizes)
    candidates = as_positives(batch.truth, found, method.locations(lattice), lattice)
    _, boxes = method.sides_and_boxes(outputs.box_maps, candidates)
    iou = paired_iou(boxes, candidates.boxes_xyxy)
    chosen, _ = method.choose(outputs.class_logits, found, candidates, iou)
    return candidates[chosen]


def positives_of(method, batch, strides):
    height, width = batch.images.shape[-2:]
    lattice = Lattice(tuple((-(-height // s), -(-width // s)) for s in strides), strides)
    assignment = method.assign(batch.truth, lattice, batch.valid_sizes)
    return find_positives(batch.truth, assignment, method.locations(lattice))


def two_photos(batch):
    """A figure with the photo on both halves."""
    figure, halves = plt.subplots(1, 2, figsize=(11, 4.3), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1)  # in inches; otherwise the titles are cut off
    height, width = batch.images.shape[-2:]
    for axes in halves:
        axes.imshow(batch.images[0].permute(1, 2, 0), alpha=0.75)
        axes.set_axis_off()
        axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    return figure, halves


def save(figure, file) -> None:
    figure.savefig(file, dpi=100, pil_kwargs={"quality": 88})
    plt.close(figure)


def draw(name, batch, detector, file) -> None:
    if name in CHOSEN:
        positives = chosen_positives(batch, detector)
    else:
        positives = positives_of(METHODS[name](), batch, STRIDES)
    figure, (left, right) = two_photos(batch)
    for gt, box in enumerate(batch.truth.boxes_xyxy.tolist()):
        rectangle(left, box, COLOURS[gt % 10], 1.2)
    for (x, y), stride, gt in zip(
        positives.locations.points_xy.tolist(), positives.locations.strides.tolist(), positives.gt.tolist(), strict=True
    ):
        left.plot(x, y, "o", color=COLOURS[gt % 10], markersize=1.5 + stride / 6, markeredgecolor="white", mew=0.5)
    found = len(set(positives.gt.tolist()))
    left.set_title(
        f"{positives.gt.numel()} positives, for {found} of {batch.truth.labels.numel()} objects", fontsize=10
    )
    chosen = largest_object(batch.truth.boxes_xyxy, positives)
    rectangle(right, batch.truth.boxes_xyxy[chosen].tolist(), "black", 2)
    sides = {"retinanet": anchors, "atss": anchors, "fcos": distances}.get(name, distributions)
    sides(right, positives, chosen, batch, detector)
    save(figure, file)


def largest_object(boxes, positives) -> int:
    """Index of the largest object with a positive."""
    sides = boxes[:, 2:] - boxes[:, :2]
    area = sides.prod(dim=1)
    return max(set(positives.gt.tolist()), key=lambda gt: float(area[gt]))


def rectangle(axes, box, colour, width, **options) -> None:
    x1, y1, x2, y2 = box
    axes.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=width, **options))


def anchors(axes, positives, gt, batch, detector) -> None:
    own = (positives.gt == gt).nonzero()[:, 0]
    for box in positives.locations.anchors_xyxy[own].tolist():
        rectangle(axes, box, "tab:red", 0.9, linestyle="--", clip_on=True)
    axes.set_title(f"an object, and its {own.numel()} positive anchors (dashed)", fontsize=10)


def distances(axes, positives, gt, batch, detector) -> None:
    own = int((positives.gt == gt).nonzero()[0, 0])
    (x, y), (x1, y1, x2, y2) = positives.locations.points_xy[own].tolist(), positives.boxes_xyxy[own].tolist()
    for end in ((x1, y), (x, y1), (x2, y), (x, y2)):
        axes.annotate("", end, (x, y), arrowprops={"arrowstyle": "->", "color": "tab:red", "linewidth": 1.6})
    axes.plot(x, y, "o", color="tab:red")
    strides = encode_distances(
        positives.locations.points_xy[own : own + 1],
        positives.locations.strides[own : own + 1],
        positives.boxes_xyxy[own : own + 1],
    )
    text = ", ".join(f"{value:.1f}" for value in strides[0].tolist())
    axes.set_title(f"an object, and its distances from one location: {text} strides", fontsize=10)


def distributions(axes, positives, gt, batch, detector) -> None:
    """Draw the box of the object's location with the best score, with the distribution of each side."""
    with torch.no_grad():
        outputs = detector.net(batch.images)
    own = (positives.gt == gt).nonzero()[:, 0]
    image, location = positives.image[own], positives.location[own]
    scores = gather_locations(outputs.class_logits, len(detector.class_names), image, location).amax(dim=1)
    best = own[scores.argmax()]
    method = detector.method
    box_params = gather_locations(
        outputs.box_maps, method.num_box_channels, positives.image[best[None]], positives.location[best[None]]
    )
    deviation = draw_distributions(axes, box_params, positives.locations[best[None]], method)
    text = ", ".join(f"{value:.1f}" for value in deviation)
    axes.set_title(f"its predicted distributions (blue), their means (red); std {text} px", fontsize=10)


def draw_distributions(axes, box_params, place, method) -> list[float]:
    """Draw the box of a location with the distribution of each side; return the standard deviations in pixels."""
    box, deviation = method.decode(box_params, place)
    rectangle(axes, box[0].tolist(), "tab:red", 1.4)
    (x, y), stride = place.points_xy[0].tolist(), float(place.strides[0])
    probs = box_params.view(4, -1).softmax(dim=1)
    for side, (dx, dy) in enumerate(((-1, 0), (0, -1), (1, 0), (0, 1))):
        for step, p in enumerate(probs[side].tolist()):
            if p > 0.01:
                at = (x + dx * step * stride, y + dy * step * stride)
                across = (0, 30 * p) if dx else (30 * p, 0)
                axes.plot(
                    [at[0] - across[0], at[0] + across[0]],
                    [at[1] - across[1], at[1] + across[1]],
                    color="tab:blue",
                    linewidth=4,
                    alpha=0.8,
                    solid_capstyle="butt",
                )
    axes.plot(x, y, "o", color="tab:blue")
    return deviation[0].tolist()


def draw_quality(batch, detector, file) -> None:
    """Draw the positives with the highest and the lowest quality among those with a confident class."""
    method, num_classes = detector.method, len(detector.class_names)
    positives = positives_of(method, batch, detector.net.strides)
    with torch.no_grad():
        outputs = detector.net(batch.images)

    def at_positives(maps, channels):
        return gather_locations(maps, channels, positives.image, positives.location)

    box_params = at_positives(outputs.box_maps, method.num_box_channels)
    probability = at_positives(outputs.class_logits, num_classes).sigmoid().amax(dim=1)
    quality = at_positives(outputs.quality_logits, 1).sigmoid()[:, 0]
    iou = paired_iou(method.decode(box_params, positives.locations)[0], positives.boxes_xyxy)
    sure = (probability > 0.5).nonzero()[:, 0]
    figure, halves = two_photos(batch)
    for axes, chosen in zip(halves, (quality[sure].argmax(), quality[sure].argmin()), strict=True):
        one = sure[chosen][None]
        rectangle(axes, positives.boxes_xyxy[one][0].tolist(), "black", 2)
        draw_distributions(axes, box_params[one], positives.locations[one], method)
        axes.set_title(
            f"class {float(probability[one]):.2f} × quality {float(quality[one]):.2f} = "
            f"{float(probability[one] * quality[one]):.2f}; IoU with the object (black) {float(iou[one]):.2f}",
            fontsize=10,
        )
    save(figure, file)


if __name__ == "__main__":
    main()
