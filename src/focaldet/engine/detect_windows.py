"""Detections on labelled photos, on whole photos or in windows, depending on the detector."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from focaldet.data.batching import DetectionDataset
from focaldet.data.records import ImageRecord
from focaldet.data.truth import CocoId, image_ids
from focaldet.engine.detect import detect_records
from focaldet.engine.detector import Detector
from focaldet.photos.regions import open_regions
from focaldet.runtime.results import coco_results
from focaldet.runtime.window_stream import look


def photos_to_detect(records: Sequence[ImageRecord], detector_sees_windows: bool, transform: Any) -> DetectionDataset:
    """The photos of a split; in windows, none is kept in memory."""
    return DetectionDataset(records, transform, cache_bytes=0 if detector_sees_windows else None)


def detect_photos(
    detector: Detector,
    dataset: DetectionDataset,
    *,
    category_ids: Sequence[CocoId] | None = None,
    progress: Callable[[int], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Detect with the threshold of AP, and return COCO results in the order of the photos.

    Args:
        detector: without calibration.
        dataset: photos, see ``detect_records``; one that cannot be read has no detections.
        category_ids: see ``detect_records``.
        progress: called with the number of photos done.
        say: prints a line about a photo that cannot be read completely.
    """
    if detector.tiling is None:
        postprocess = detector.evaluation_postprocess()
        return detect_records(detector.net, postprocess, dataset, category_ids=category_ids, progress=progress)
    training = detector.net.training
    looking = detector.with_score_threshold(detector.spec.evaluation_score)
    results: list[dict[str, Any]] = []
    stream = look(looking, [partial(open_regions, record.path) for record in dataset.records], detector.tiling)
    for index, (key, looked) in enumerate(zip(image_ids(dataset.records), stream, strict=True)):
        if looked.found is not None:
            results += coco_results(key, looked.found, category_ids)
        elif looked.fault is not None:
            dataset.set_unreadable(index, str(looked.fault))
        if looked.photo is not None and looked.photo.problem:
            say(looked.photo.problem)
        if progress is not None:
            progress(index + 1)
    detector.net.train(training)
    return results


def room_of(detector: Detector, results: Sequence[dict[str, Any]]) -> int:
    """Number of detections per photo that count in AP: the limit, or all of them in windows without a limit."""
    limit = detector.postprocess.config.max_detections
    if detector.tiling is None:
        return limit
    if detector.tiling.max_detections is not None:
        return detector.tiling.max_detections
    return max(limit, max(Counter(entry["image_id"] for entry in results).values(), default=0))
