"""What is exported: a detector from pixels to boxes as one graph of fixed structure.

It computes what ``DenseDetector`` and ``PostProcess`` do; where those make lists of what passes a threshold, it keeps
all and marks what does not pass, so that every shape follows from the batch's.

Axes: B images, P locations of all levels, C classes, D parameters of a box, N candidates, M detections at most.
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
"""Label of a detection that is none: an image has fewer than there is room for."""


class RawGraph(nn.Module):
    """Images ``(B, H, W, 3)`` to the head's maps: ``class_logits_p3`` ``(B, A * C, h, w)``, …"""

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
        """The outputs of what the network gives for images."""
        return (*outputs.class_logits, *outputs.box_maps, *(outputs.quality_logits or ()))


def head_outputs(maps: OutputArrays) -> HeadOutputs:
    """The outputs of a ``RawGraph`` by name, as the network gives them."""

    def of(kind: str) -> list[Tensor]:
        return [torch.from_numpy(values) for name, values in maps.items() if name.startswith(kind)]

    return HeadOutputs(of("class_logits"), of("box_outputs"), of("quality_logits") or None)


class BoxGraph(nn.Module):
    """What the two graphs below share: which pairs of location and class are candidates, and where a location's box is.

    Args:
        net: the network.
        postprocess: the reading of its maps; its threshold becomes part of the graph.
    """

    def __init__(self, net: DenseDetector, postprocess: PostProcess) -> None:
        super().__init__()
        self.net = net
        self.postprocess = postprocess
        self.method = postprocess.method
        self.config = postprocess.config
        self.std_names = ("side_std_px",) * (self.method.num_box_channels > 4)

    def level_scores(self, outputs: HeadOutputs, level: int) -> tuple[Tensor, Tensor]:
        """``(B, P, C)`` of a level: the logit of the score, and that which ranks and is held against the threshold."""
        rule = self.method.score_rule
        logits = flatten_levels([outputs.class_logits[level]], self.net.num_classes)
        joint = ranked = logits
        if outputs.quality_logits is not None and rule.combine != "class":
            joint = joint_logits(logits, flatten_levels([outputs.quality_logits[level]], 1))
            ranked = joint if rule.threshold_on == "score" else logits
        return joint, ranked

    def score(self, joint: Tensor) -> Tensor:
        """A score of its logit."""
        probs = joint.sigmoid()
        return probs.sqrt() if self.method.score_rule.combine == "sqrt" else probs

    def boxes(self, box_params: Tensor, locations: Locations, images: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """The boxes ``(B, N, 4)`` of ``(B, N, D)`` box parameters, cut to the image, their deviations, and ``(B, N)``
        whether anything is left of each."""
        shape = (*box_params.shape[:2], 4)
        boxes, deviation = self.method.decode(box_params.flatten(0, 1), locations)
        last = int(self.config.last_pixel)
        boxes = clip_boxes(boxes, images.shape[1] - last, images.shape[2] - last).view(shape)
        sides = boxes[..., 2:] - boxes[..., :2]
        left = (sides >= 0 if self.config.keep_empty else sides > 0).all(dim=-1)
        return boxes, None if deviation is None else deviation.view(shape), left


class LocationGraph(BoxGraph):
    """Images ``(B, H, W, 3)`` to the box ``(B, P, 4)``, the scores ``(B, P, C)`` and the deviations ``(B, P, 4)`` of
    every location; scores that do not pass the threshold are 0. For programs that have a suppression of their own."""

    @property
    def output_names(self) -> tuple[str, ...]:
        return ("boxes_xyxy", "scores", *self.std_names)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.read(self.net(images.permute(0, 3, 1, 2)), images)

    def read(self, outputs: HeadOutputs, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs of what the network gives for images."""
        box_params = flatten_levels(outputs.box_maps, self.method.num_box_channels)
        index = torch.arange(box_params.shape[1], device=images.device).repeat(images.shape[0])
        boxes, deviation, left = self.boxes(box_params, self.postprocess.locations(outputs)[index], images)
        levels = [self.level_scores(outputs, level) for level in range(len(self.net.strides))]
        joint, ranked = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        scores = torch.where((ranked > self.postprocess.threshold) & left[..., None], self.score(joint), 0.0)
        return (boxes, scores) if deviation is None else (boxes, scores, deviation)


class DetectionGraph(BoxGraph):
    """Images ``(B, H, W, 3)`` to boxes ``(B, M, 4)``, scores and labels ``(B, M)``, deviations ``(B, M, 4)`` of methods
    that have them, and how many of an image's M are detections ``(B,)``. Best first; the others are 0, their label is
    ``PADDING``."""

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
        """The outputs of what the network gives for images."""
        score, label, location, box_params, passes = self.candidates(outputs)
        boxes, deviation, left = self.boxes(box_params, self.postprocess.locations(outputs)[location.flatten()], images)
        score = torch.where(passes & left, score, -1.0)
        if self.config.nms_iou is not None:
            limits = self.config.nms_iou, self.config.max_detections
            kept = self.nms(boxes, score, label, self.net.num_classes, *limits)
            score = torch.where(kept, score, -1.0)
        return self.best(boxes, score, label, deviation)

    def candidates(self, outputs: HeadOutputs) -> tuple[Tensor, ...]:
        """Of each level's best pairs of location and class: ``(B, N)`` score, label and location, ``(B, N, D)`` the box
        parameters, ``(B, N)`` whether they pass the threshold. In the order of the locations, which decides between
        equal scores."""
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
        """The best M of each image, of those whose score is not negative."""
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
    """The outputs of a graph, and the head's maps behind them: AP is measured by all boxes that are in the maps."""

    def __init__(self, graph: LocationGraph | DetectionGraph) -> None:
        super().__init__()
        self.whole = graph  # torch has a use of its own for the name "graph"
        self.maps = RawGraph(graph.net)
        self.output_names = (*graph.output_names, *self.maps.output_names)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs: HeadOutputs = self.whole.net(images.permute(0, 3, 1, 2))
        return (*self.whole.read(outputs, images), *self.maps.read(outputs, images))
