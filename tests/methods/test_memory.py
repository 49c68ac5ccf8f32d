"""With the classes of LVIS, the losses add little more than the logits' gradient to a step's memory."""

import pytest
import torch

from focaldet import kernels
from focaldet.bench.measure import extra_peak_bytes
from focaldet.boxes.locations import Lattice
from focaldet.engine.spec import METHODS
from focaldet.methods.targets import losses_of, make_targets
from focaldet.structures import GroundTruth, HeadOutputs

NUM_CLASSES = 1203
STRIDES = (8, 16, 32, 64, 128)
IMAGES, OBJECTS = 2, 20
MOST = {"gflv2": 2.8}
"""Times the class logits: the joint logits, whose gradient takes their place, the gradient of the class logits, and
numbers of a level in between. For the other methods 1.5: the gradient, and what has no class axis."""


def lattice_of(name):
    """A ninth of the locations where each has nine anchors: as many logits."""
    height, width = (160, 256) if name == "retinanet" else (480, 768)
    return Lattice(tuple((-(-height // s), -(-width // s)) for s in STRIDES), STRIDES)


def loss_step(name):
    """Assignment, loss and the gradient of the head's maps, ready to run; and the maps of the classes."""
    method, lattice, generator = METHODS[name](), lattice_of(name), torch.Generator().manual_seed(0)

    def maps(channels):
        sizes = [(IMAGES, method.anchors_per_location * channels, *shape) for shape in lattice.level_shapes]
        levels = [torch.randn(size, generator=generator).sub_(4) for size in sizes]
        return [level.to(memory_format=torch.channels_last).requires_grad_() for level in levels]

    quality = None if method.quality_branch == "none" else maps(1)
    outputs = HeadOutputs(maps(NUM_CLASSES), maps(method.num_box_channels), quality)
    corner = torch.rand(IMAGES * OBJECTS, 2, generator=generator) * 80
    index = torch.arange(IMAGES).repeat_interleave(OBJECTS)
    labels = torch.randint(NUM_CLASSES, index.shape, generator=generator)
    boxes = torch.cat([corner, corner + 10 + 60 * torch.rand(corner.shape, generator=generator)], dim=1)
    truth = GroundTruth(boxes, labels, index, IMAGES, torch.zeros(0, 4), index[:0])

    def step():
        targets = make_targets(method, truth, lattice, torch.tensor(IMAGES * [lattice.level_shapes[0]]) * STRIDES[0])
        assert targets.positives.gt.numel() > IMAGES * OBJECTS
        loss = torch.stack(list(losses_of(method, outputs, targets, progress=1.0).values())).sum()
        return torch.autograd.grad(loss, [*outputs.class_logits, *outputs.box_maps, *(outputs.quality_logits or [])])

    return step, outputs.class_logits


def ready(name):
    torch.set_num_threads(1)
    return loss_step(name)[0]


@pytest.mark.slow
@pytest.mark.skipif(kernels.available()["cpu"] is not None, reason="the C++ kernels are not built")
@pytest.mark.parametrize("name", METHODS)
def test_a_loss_adds_no_tensor_of_locations_times_classes_but_the_gradient(name):
    size = sum(level.nbytes for level in loss_step(name)[1])
    assert size > 60e6
    extra = extra_peak_bytes(ready, name)
    if extra is None:
        pytest.skip("peak memory is read from /proc")
    assert size < extra < MOST.get(name, 1.5) * size
