"""Whether photos share a batch changes nothing: detections are those of ``predict``, in any batch and order."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporting.random_runs import random_detector
from focaldet.data.batching import DetectionDataset
from focaldet.data.folder import read_folder
from focaldet.data.records import ImageRecord
from focaldet.engine.detect import detect_records, same_size_batches
from focaldet.engine.detector import Detector
from focaldet.models.detector import Variant
from focaldet.photos.resize import Resize
from focaldet.runtime.results import coco_results

ROUNDING = 1e-5
"""Of scores, and of sides in lengths of the photo: a convolution of several photos sums up in another order than one of
a single photo (Winograd's or not, blocks of another height), which changes a logit by about 2e-6."""


@pytest.fixture(scope="module")
def photos(coco_photos: Path) -> tuple[ImageRecord, ...]:
    records = read_folder(coco_photos).splits["val"][:14]
    assert len({(record.width, record.height) for record in records}) > 5
    return records


def found_in(detector: Detector, records: tuple[ImageRecord, ...], batch: int) -> dict[Any, list[dict[str, Any]]]:
    dataset = DetectionDataset(records, detector.spec.transform)
    postprocess = detector.evaluation_postprocess()
    found: dict[Any, list[dict[str, Any]]] = {}
    for entry in detect_records(detector.net, postprocess, dataset, batch=batch):
        found.setdefault(entry["image_id"], []).append(entry)
    assert list(found) == [record.image_id for record in records]  # in the order of the photos
    return found


def by_predict(detector: Detector, records: tuple[ImageRecord, ...]) -> dict[Any, list[dict[str, Any]]]:
    eager = Detector(detector.spec, detector.net, detector.method, score_threshold=detector.spec.evaluation_score)
    return {record.image_id: coco_results(record.image_id, eager.predict(record.path)) for record in records}


def assert_same(found: dict[Any, list[dict[str, Any]]], expected: dict[Any, list[dict[str, Any]]]) -> None:
    assert found.keys() == expected.keys()
    for key, theirs in expected.items():
        mine = found[key]
        assert [entry["category_id"] for entry in mine] == [entry["category_id"] for entry in theirs]
        side = max(max(entry["bbox"]) for entry in theirs)
        for name, most in (("score", ROUNDING), ("bbox", max(ROUNDING * side, 2e-3))):  # written with three digits
            np.testing.assert_allclose(
                [entry[name] for entry in mine], [entry[name] for entry in theirs], rtol=0, atol=most + 1e-9
            )


@pytest.mark.parametrize("batch", [2, 3, 8])
@pytest.mark.parametrize("method", ["gfl", "fcos"])
def test_detections_are_those_of_predict_whatever_the_batch(
    photos: tuple[ImageRecord, ...], method: str, batch: int
) -> None:
    detector = random_detector(method)
    expected = by_predict(detector, photos)
    assert min(map(len, expected.values())) > 3
    assert_same(found_in(detector, photos, batch), expected)


def test_detections_do_not_depend_on_the_order_of_the_photos(photos: tuple[ImageRecord, ...]) -> None:
    detector = random_detector("gfl")
    order = np.random.default_rng(0).permutation(len(photos))
    mixed = found_in(detector, tuple(photos[i] for i in order), 4)
    assert_same({record.image_id: mixed[record.image_id] for record in photos}, found_in(detector, photos, 4))


def test_imported_networks_that_pad_are_evaluated_in_batches_too(photos: tuple[ImageRecord, ...]) -> None:
    detector = random_detector(
        "gfl", network=Variant(pad_to=32), resize=Resize(short_side=70, resampling="torchvision")
    )
    assert_same(found_in(detector, photos, 8), by_predict(detector, photos))


def test_a_batch_holds_photos_of_one_size(photos: tuple[ImageRecord, ...]) -> None:
    dataset = DetectionDataset(photos, random_detector("gfl").spec.transform)
    batches = same_size_batches(dataset, 3)
    assert sorted(index for indices in batches for index in indices) == list(range(len(photos)))
    assert 1 < max(map(len, batches)) <= 3
    for indices in batches:
        assert len({tuple(dataset[index].image.shape) for index in indices}) == 1


def test_a_photo_twice_the_size_shares_the_batch(photos: tuple[ImageRecord, ...]) -> None:
    first = photos[0]
    twice = replace(first, width=2 * first.width, height=2 * first.height)
    dataset = DetectionDataset((first, twice), random_detector("gfl").spec.transform, cache_bytes=0)
    assert same_size_batches(dataset, 8) == [[0, 1]]
