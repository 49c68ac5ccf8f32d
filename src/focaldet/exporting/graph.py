"""The exported graph: a detector from pixels to boxes, with fixed structure.

It computes the same as ``DenseDetector`` and ``PostProcess``. They collect the candidates above a threshold; the graph
keeps all candidates and marks the others instead, so that every shape follows from the shape of the batch.

Axes: B images, P locations on all levels, C classes, D parameters per box, N candidates, M detections at most.
"""

import torch
from torch import Tensor, nn

from focaldet.boxes.formats import clip_boxes
from focaldet.boxes.locations import Locations, flatten_levels
from focaldet.exporting.nms import NMS, TopK, topk
from focaldet.models.detector import DenseDetector
from focaldet.models.joint import joint_logits
from focaldet.models.postprocess import PostProcess
from focaldet.runtime.outputs import OutputArrays
from focaldet.structures import HeadOutputs

PADDING = -1
"""Label of unused entries, in images with fewer than the largest number of detections."""


class RawGraph(nn.Module):
    """Images ``(B, H, W, 3)`` to the raw maps of the head: ``class_logits_p3`` ``(B, A * C, h, w)``, …"""

    def __init__(self, net: DenseDetector) -> None:
        super().__init__()
        self.net = net
        kinds = ["class_logits", "box_outputs"]
        if net.head.centerness is not None or net.head.quality is not None:
            kinds.append("quality_logits")
        levels = [f"p{stride.bit_length() - 1}" for stride in net.strides]
        self.output_names = tuple(f"{kind}_{level}" for kind in kinds for level in levels)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.read(self.net(images.permute(0, 3, 1, 2)), images)

    def read(self, outputs: HeadOutputs, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the graph from those of the network."""
        return (*outputs.class_logits, *outputs.box_maps, *(outputs.quality_logits or ()))


def head_outputs(maps: OutputArrays) -> HeadOutputs:
    """Convert the outputs of a ``RawGraph``, by name, to ``HeadOutputs``."""

    def of(kind: str) -> list[Tensor]:
        return [torch.from_numpy(values) for name, values in maps.items() if name.startswith(kind)]

    return HeadOutputs(of("class_logits"), of("box_outputs"), of("quality_logits") or None)


class BoxGraph(nn.Module):
    """Shared part of the two graphs below: scores and boxes of candidates.

    Args:
        net: the network.
        postprocess: the post-processing; its thresholds become part of the graph.
    """

    def __init__(self, net: DenseDetector, postprocess: PostProcess) -> None:
        super().__init__()
        self.net = net
        self.postprocess = postprocess
        self.method = postprocess.method
        self.config = postprocess.config
        self.std_names = ("side_std_px",) * (self.method.num_box_channels > 4)

    def level_scores(self, outputs: HeadOutputs, level: int) -> tuple[Tensor, Tensor]:
        """Logits ``(B, P, C)`` of a level: of the score, and of the value that is ranked and thresholded."""
        rule = self.method.score_rule
        logits = flatten_levels([outputs.class_logits[level]], self.net.num_classes)
        joint = ranked = logits
        if outputs.quality_logits is not None and rule.combine != "class":
            joint = joint_logits(logits, flatten_levels([outputs.quality_logits[level]], 1))
            ranked = joint if rule.threshold_on == "score" else logits
        return joint, ranked

    def score(self, joint: Tensor) -> Tensor:
        """Logits of scores to scores."""
        probs = joint.sigmoid()
        return probs.sqrt() if self.method.score_rule.combine == "sqrt" else probs

    def boxes(self, box_params: Tensor, locations: Locations, images: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Decode ``(B, N, D)`` box parameters to boxes ``(B, N, 4)``, clipped to the image, their standard deviations
        ``(B, N, 4)`` or ``None``, and a mask ``(B, N)`` of the boxes that are not empty."""
        shape = (*box_params.shape[:2], 4)
        boxes, deviation = self.method.decode(box_params.flatten(0, 1), locations)
        last = int(self.config.last_pixel)
        boxes = clip_boxes(boxes, images.shape[1] - last, images.shape[2] - last).view(shape)
        sides = boxes[..., 2:] - boxes[..., :2]
        left = (sides >= 0 if self.config.keep_empty else sides > 0).all(dim=-1)
        return boxes, None if deviation is None else deviation.view(shape), left


class LocationGraph(BoxGraph):
    """Images ``(B, H, W, 3)`` to boxes ``(B, P, 4)``, scores ``(B, P, C)`` and, if the method has them, standard
    deviations ``(B, P, 4)`` of every location. Scores that do not pass the threshold are 0. For programs with their own
    NMS."""

    @property
    def output_names(self) -> tuple[str, ...]:
        return ("boxes_xyxy", "scores", *self.std_names)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.read(self.net(images.permute(0, 3, 1, 2)), images)

    def read(self, outputs: HeadOutputs, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the graph from those of the network."""
        box_params = flatten_levels(outputs.box_maps, self.method.num_box_channels)
        index = torch.arange(box_params.shape[1], device=images.device).repeat(images.shape[0])
        boxes, deviation, left = self.boxes(box_params, self.postprocess.locations(outputs)[index], images)
        levels = [self.level_scores(outputs, level) for level in range(len(self.net.strides))]
        joint, ranked = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        scores = torch.where((ranked > self.postprocess.threshold) & left[..., None], self.score(joint), 0.0)
        return (boxes, scores) if deviation is None else (boxes, scores, deviation)


class DetectionGraph(BoxGraph):
    """Images ``(B, H, W, 3)`` to boxes ``(B, M, 4)``, scores and labels ``(B, M)``, standard deviations ``(B, M, 4)``
    if the method has them, and the number of detections ``(B,)``. Best first; the remaining boxes and scores are 0,
    their labels ``PADDING``."""

    def __init__(self, net: DenseDetector, postprocess: PostProcess, nms: NMS, topk: TopK = topk) -> None:
        super().__init__(net, postprocess)
        self.nms = nms
        self.topk = topk

    @property
    def output_names(self) -> tuple[str, ...]:
        return ("boxes_xyxy", "scores", "labels", *self.std_names, "count")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.read(self.net(images.permute(0, 3, 1, 2)), images)

    def read(self, outputs: HeadOutputs, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the graph from those of the network."""
        score, label, location, box_params, passes = self.candidates(outputs)
        boxes, deviation, left = self.boxes(box_params, self.postprocess.locations(outputs)[location.flatten()], images)
        score = torch.where(passes & left, score, -1.0)
        if self.config.nms_iou is not None:
            limits = self.config.nms_iou, self.config.max_detections
            kept = self.nms(boxes, score, label, self.net.num_classes, *limits)
            score = torch.where(kept, score, -1.0)
        return self.best(boxes, score, label, deviation)

    def candidates(self, outputs: HeadOutputs) -> tuple[Tensor, ...]:
        """The best (location, class) pairs of each level: score, label and location ``(B, N)``, box parameters
        ``(B, N, D)``, and whether each passes the threshold ``(B, N)``. In lattice order, which breaks ties."""
        bests, indices, joints, start = [], [], [], 0
        for level in range(len(self.net.strides)):
            joint, ranked = self.level_scores(outputs, level)
            pairs = ranked.flatten(1)
            index = self.topk(pairs, self.config.topk_candidates).sort(dim=1).values
            bests.append(pairs.gather(1, index))
            indices.append(index + start)
            joints.append(joint)
            start = start + pairs.shape[1]
        best, index = torch.cat(bests, dim=1), torch.cat(indices, dim=1)
        location, label = index // self.net.num_classes, index % self.net.num_classes
        box_params = flatten_levels(outputs.box_maps, self.method.num_box_channels)
        chosen = box_params.gather(1, location[..., None].expand(-1, -1, self.method.num_box_channels))
        score = self.score(best if joint is ranked else torch.cat(joints, dim=1).flatten(1).gather(1, index))
        return score, label, location, chosen, best > self.postprocess.threshold

    def best(self, boxes: Tensor, score: Tensor, label: Tensor, deviation: Tensor | None) -> tuple[Tensor, ...]:
        """The best M detections of each image among those with a score >= 0."""
        room = self.config.max_detections
        score = nn.functional.pad(score, (0, room), value=-1.0)
        place = self.topk(score, room)
        score = score.gather(1, place)
        there = score >= 0
        place = torch.where(there, place, 0)

        def of_best(values: Tensor) -> Tensor:
            return torch.where(there[..., None], values.gather(1, place[..., None].expand(-1, -1, 4)), 0.0)

        label = torch.where(there, label.gather(1, place), PADDING)
        stds = () if deviation is None else (of_best(deviation),)
        return of_best(boxes), score.clamp(min=0), label, *stds, there.sum(dim=1)


class MeasuredGraph(nn.Module):
    """The outputs of a graph, followed by the raw maps of the head for measuring AP."""

    def __init__(self, graph: LocationGraph | DetectionGraph) -> None:
        super().__init__()
        self.whole = graph  # torch reserves the name "graph"
        self.maps = RawGraph(graph.net)
        self.output_names = (*graph.output_names, *self.maps.output_names)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs: HeadOutputs = self.whole.net(images.permute(0, 3, 1, 2))
        return (*self.whole.read(outputs, images), *self.maps.read(outputs, images))
