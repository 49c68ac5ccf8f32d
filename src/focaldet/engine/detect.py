"""Detections of a network on labelled photos, as COCO results."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from focaldet.data.batching import DetectionDataset, Sample, collate
from focaldet.data.records import ImageRecord
from focaldet.data.transforms import EvalTransform
from focaldet.data.truth import CocoId, image_ids
from focaldet.models.detector import DenseDetector
from focaldet.models.postprocess import PostProcess
from focaldet.runtime.model import DetectionArrays, NetworkInput
from focaldet.runtime.results import coco_results
from focaldet.structures import Detections


def detect_records(
    net: DenseDetector,
    postprocess: PostProcess,
    dataset: DetectionDataset,
    *,
    category_ids: Sequence[CocoId] | None = None,
    batch: int = 8,
    progress: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Detect on a data set and return COCO results in the order of its images, with boxes in pixels of the photos.

    Only photos of the same input size share a batch. Otherwise, a smaller photo would be padded, and the network's
    output near the padding would change.

    A photo that cannot be read has no detections; ``dataset.newly_unreadable`` names it.

    Args:
        dataset: photos with an ``EvalTransform``.
        category_ids: COCO id of each label, see ``coco_results``; image ids come from ``image_ids``.
        batch: largest number of photos per batch. It changes a photo's scores only by float32 rounding (1e-6).
        progress: called with the number of photos done.
    """
    assert isinstance(dataset.transform, EvalTransform)
    training = net.training
    net.eval()
    keys = image_ids(dataset.records)
    results: list[list[dict[str, Any]]] = [[] for _ in keys]
    done = 0
    for indices in same_size_batches(dataset, batch):
        samples = [sample for index in indices if (sample := dataset.sample(index)) is not None]
        if samples:
            for index, detections in _detect(net, postprocess, dataset.records, samples):
                results[index] = coco_results(keys[index], detections, category_ids)
        done += len(indices)
        if progress is not None:
            progress(done)
    net.train(training)
    return [entry for entries in results for entry in entries]


def same_size_batches(dataset: DetectionDataset, most: int) -> list[list[int]]:
    """Indices of a data set in batches of at most ``most`` photos of the same input size."""
    transform = dataset.transform
    assert isinstance(transform, EvalTransform)
    groups: dict[tuple[int, int], list[int]] = {}
    for index, record in enumerate(dataset.records):
        size = transform.resize.canvas(record.width, record.height, transform.size)
        groups.setdefault(size, []).append(index)
    return [group[first : first + most] for group in groups.values() for first in range(0, len(group), most)]


def _detect(
    net: DenseDetector, postprocess: PostProcess, records: Sequence[ImageRecord], samples: Sequence[Sample]
) -> Iterator[tuple[int, Detections]]:
    """Index and detections of each sample, in pixels of its photo."""
    images, valid_sizes, _ = collate(samples)
    with torch.no_grad():
        outputs = net(images.to(net.mean.device))
    sizes = [(int(h), int(w)) for h, w in valid_sizes.tolist()]
    for sample, size, detections in zip(samples, sizes, postprocess(outputs, sizes), strict=True):
        record = records[sample.index]
        photo = (record.height, record.width)
        yield sample.index, to_photo(detections, size, photo, last_pixel=postprocess.config.last_pixel)


WITHOUT_DETECTIONS = "; AP counts it as a photo without detections"
"""End of the line about a photo that cannot be read."""


def without_detections(problem: str) -> str:
    """Message about a photo from ``dataset.newly_unreadable``."""
    return problem + WITHOUT_DETECTIONS


def to_photo(
    detections: Detections, size: tuple[int, int], photo_size: tuple[int, int], *, last_pixel: bool = False
) -> Detections:
    """Convert detections from pixels of the network's input to pixels of the photo, on the CPU.

    Args:
        detections: in pixels of the network's input.
        size, photo_size: (height, width) of the network's input and of the photo.
        last_pixel: right and bottom sides are the last pixels inside the box, see ``PostProcessConfig``.
    """
    return as_detections(as_arrays(detections).to_photo(NetworkInput(None, size, photo_size), last_pixel=last_pixel))


def as_detections(found: DetectionArrays) -> Detections:
    """The same detections as tensors."""
    return Detections(
        torch.from_numpy(found.boxes_xyxy),
        torch.from_numpy(found.scores),
        torch.from_numpy(found.labels),
        None if found.side_std_px is None else torch.from_numpy(found.side_std_px),
    )


def as_arrays(detections: Detections) -> DetectionArrays:
    """The same detections as arrays."""
    return DetectionArrays(
        detections.boxes_xyxy.cpu().numpy(),
        detections.scores.cpu().numpy(),
        detections.labels.cpu().numpy(),
        None if detections.side_std_px is None else detections.side_std_px.cpu().numpy(),
    )
