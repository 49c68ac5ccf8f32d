import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from focaldet.checks import InputError
from focaldet.data.batching import DetectionDataset, TrainingSampler, collate
from focaldet.data.folder import read_folder
from focaldet.data.records import ImageRecord
from focaldet.data.transforms import EvalTransform, TrainTransform

from .builders import PHOTOS, write_coco, write_photo


@pytest.fixture
def records(tmp_path):
    write_coco(tmp_path)
    folder = read_folder(tmp_path)
    return folder.splits["train"] + folder.splits["val"]


def same(a, b) -> bool:
    return torch.equal(a.image, b.image) and torch.equal(a.boxes_xyxy, b.boxes_xyxy)


def test_a_sample_depends_on_seed_epoch_and_index_alone(records):
    first = DetectionDataset(records, TrainTransform(48), seed=3)
    again = DetectionDataset(records, TrainTransform(48), seed=3, cache_bytes=0)
    samples = [first[e, i] for e in range(2) for i in range(3)]
    torch.manual_seed(99)  # whatever else happened
    assert all(same(again[e, i], samples[3 * e + i]) for e, i in ((1, 2), (0, 0), (1, 0), (0, 2)))
    assert not same(first[0, 0], first[1, 0])
    assert not same(first[0, 0], DetectionDataset(records, TrainTransform(48), seed=4)[0, 0])


def test_a_sample_leaves_the_global_generator_as_it_was(records):
    dataset = DetectionDataset(records, TrainTransform(48), seed=3)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    dataset[0, 0]
    assert torch.equal(torch.rand(3), expected)


def test_workers_give_the_same_batches_as_none(records):
    dataset = DetectionDataset(records, TrainTransform(48), seed=3)
    batches = []
    for num_workers in (0, 2):
        sampler = TrainingSampler(3, batch_size=2, seed=1)
        sampler.set_epoch(4)
        loader = DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=num_workers, collate_fn=collate)
        batches.append(list(loader))
    for a, b in zip(*batches, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.truth.boxes_xyxy, b.truth.boxes_xyxy)


def test_evaluation_gives_scaled_boxes_in_order(records):
    batch = collate([DetectionDataset(records, EvalTransform(32))[i] for i in range(3)])
    expected = [[v / 2 for v in box] for name in "abc" for _, box in PHOTOS[name]]
    assert batch.truth.boxes_xyxy.tolist() == expected
    assert batch.truth.image_index.tolist() == [0, 0, 1]
    assert batch.truth.num_images == 3
    assert batch.valid_sizes.tolist() == [[24, 32]] * 3


def test_the_kept_images_are_no_larger_than_needed_and_boxes_fit_them(tmp_path):
    write_photo(tmp_path / "a.jpg", (400, 300))
    box = np.array([[100, 75, 300, 225]], np.float32)
    record = ImageRecord(tmp_path / "a.jpg", "a.jpg", 0, 400, 300, box, np.array([0]), np.array([False]))
    dataset = DetectionDataset([record], EvalTransform(40))
    assert dataset._images is not None
    assert dataset._images[0].shape == (3, 30, 40)
    assert dataset[0].boxes_xyxy.tolist() == [[10, 7.5, 30, 22.5]]
    assert DetectionDataset([record], EvalTransform(40), cache_bytes=3 * 30 * 40 - 1)._images is None


def test_crowds_are_ignored_regions_of_the_batch(tmp_path):
    write_photo(tmp_path / "a.jpg")
    boxes = np.array([[0, 0, 32, 24], [32, 24, 64, 48]], np.float32)
    record = ImageRecord(tmp_path / "a.jpg", "a.jpg", 0, 64, 48, boxes, np.array([1, 0]), np.array([False, True]))
    sample = DetectionDataset([record], EvalTransform(64))[0]
    batch = collate([sample, sample])
    assert batch.truth.labels.tolist() == [1, 1]
    assert batch.truth.ignored_xyxy.tolist() == [[32, 24, 64, 48]] * 2
    assert batch.truth.ignored_image_index.tolist() == [0, 1]


def test_images_of_different_shapes_are_padded_at_the_bottom_and_right(tmp_path):
    records = []
    for i, size in enumerate([(64, 32), (32, 64)]):
        write_photo(tmp_path / f"{i}.png", size)
        none = np.zeros((0, 4), np.float32)
        records.append(
            ImageRecord(tmp_path / f"{i}.png", f"{i}.png", i, *size, none, np.zeros(0, np.int64), np.zeros(0, bool))
        )
    samples = [DetectionDataset(records, EvalTransform(64))[i] for i in range(2)]
    batch = collate(samples)
    assert batch.images.shape == (2, 3, 64, 64)
    assert batch.images.dtype == torch.uint8
    assert batch.valid_sizes.tolist() == [[32, 64], [64, 32]]
    for image, sample, (height, width) in zip(batch.images, samples, batch.valid_sizes.tolist(), strict=True):
        assert torch.equal(image[:, :height, :width], sample.image)
        assert int(image[:, height:].sum()) + int(image[:, :, width:].sum()) == 0


def truncate(record: ImageRecord) -> None:
    record.path.write_bytes(record.path.read_bytes()[:-500])


@pytest.mark.parametrize("cache_bytes", [0, 10**9])
def test_the_next_photo_stands_in_for_one_that_cannot_be_read(records, cache_bytes):
    whole = DetectionDataset(records, TrainTransform(48), seed=3)
    expected = {(e, i): whole[e, i] for e in range(2) for i in (0, 2)}
    truncate(records[1])
    dataset = DetectionDataset(records, TrainTransform(48), seed=3, cache_bytes=cache_bytes)
    for key, sample in expected.items():
        assert same(dataset[key], sample)
    stands_in = dataset[1, 1]
    assert stands_in.index == 2
    assert not same(stands_in, dataset[1, 2])  # the same photo, but not the same view of it
    truncate(records[2])
    assert DetectionDataset(records, TrainTransform(48), cache_bytes=cache_bytes)[0, 1].index == 0


def test_what_stands_in_depends_neither_on_the_cache_nor_on_the_order_nor_on_workers(records):
    truncate(records[1])
    keys = [(e, i) for e in range(3) for i in range(3)]
    cached = [DetectionDataset(records, TrainTransform(48), seed=3)[key] for key in keys]
    read = DetectionDataset(records, TrainTransform(48), seed=3, cache_bytes=0)
    for key, sample in reversed(list(zip(keys, cached, strict=True))):
        assert same(read[key], sample)
    loader = DataLoader(
        DetectionDataset(records, TrainTransform(48), seed=3, cache_bytes=0),
        sampler=keys,
        batch_size=None,
        num_workers=2,
        multiprocessing_context="fork",
    )
    assert all(same(a, b) for a, b in zip(loader, cached, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_photo_that_cannot_be_read_is_named_once_whichever_process_met_it(records, workers):
    truncate(records[0])
    dataset = DetectionDataset(records, TrainTransform(48), cache_bytes=0)
    assert dataset.newly_unreadable() == []
    loader = DataLoader(
        dataset, sampler=[(e, i) for e in range(2) for i in range(3)], batch_size=None, num_workers=workers
    )
    assert len(list(loader)) == 6
    (problem,) = dataset.newly_unreadable()
    assert "a.jpg: damaged image" in problem
    assert dataset.newly_unreadable() == []


def test_a_photo_that_has_gone_is_no_end_either(records):
    records[0].path.unlink()
    dataset = DetectionDataset(records, TrainTransform(48))
    assert dataset[0].index == 1
    assert "a.jpg: no such image file" in dataset.newly_unreadable()[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_without_a_single_photo_that_can_be_read_one_line_says_so(records, workers):
    for record in records:
        truncate(record)
    dataset = DetectionDataset(records, TrainTransform(48), cache_bytes=0)
    with pytest.raises(
        InputError, match=r"no photo of the split can be read; the first one: .*a\.jpg: damaged"
    ) as caught:
        list(DataLoader(dataset, sampler=[(0, 1)], batch_size=None, num_workers=workers))
    assert "\n" not in str(caught.value)


def test_nothing_stands_in_where_photos_are_evaluated(records):
    truncate(records[1])
    for cache_bytes in (0, 10**9):
        dataset = DetectionDataset(records, EvalTransform(32), cache_bytes=cache_bytes)
        assert dataset.sample(1) is None
        assert dataset.sample(2).index == 2
        with pytest.raises(InputError, match=r"b\.jpg: damaged image"):
            dataset[1]


@given(n=st.integers(1, 60), batch=st.integers(1, 8), replicas=st.integers(1, 4), epoch=st.integers(0, 3))
def test_processes_see_together_the_batches_of_one(n, batch, replicas, epoch):
    def indices(batch_size, num_replicas, rank):
        sampler = TrainingSampler(n, batch_size=batch_size, seed=7, num_replicas=num_replicas, rank=rank)
        sampler.set_epoch(epoch)
        pairs = list(sampler)
        assert len(pairs) == len(sampler) == sampler.num_batches * batch_size
        assert all(draw.epoch == epoch for draw in pairs)
        assert [draw.batch for draw in pairs] == [place // batch_size for place in range(len(pairs))]
        return [draw.photo for draw in pairs]

    alone = indices(batch * replicas, 1, 0)
    ranks = [indices(batch, replicas, rank) for rank in range(replicas)]
    for k in range(len(alone) // (batch * replicas)):
        together = [i for rank in ranks for i in rank[k * batch : (k + 1) * batch]]
        assert sorted(together) == sorted(alone[k * batch * replicas : (k + 1) * batch * replicas])


@given(n=st.integers(1, 60), batch=st.integers(1, 16))
def test_an_epoch_repeats_nothing_unless_the_set_is_too_small(n, batch):
    indices = [draw.photo for draw in TrainingSampler(n, batch_size=batch, seed=0)]
    counts = np.bincount(indices, minlength=n)
    assert len(indices) >= batch
    if n >= batch:
        assert counts.max() == 1
    else:
        assert counts.max() - counts.min() <= 1


def test_epochs_differ_and_come_back():
    sampler = TrainingSampler(20, batch_size=5, seed=0)
    zero = list(sampler)
    sampler.set_epoch(1)
    one = list(sampler)
    sampler.set_epoch(0)
    assert list(sampler) == zero
    assert [draw.photo for draw in zero] != [draw.photo for draw in one]


def test_the_sampler_asks_before_each_batch_whether_photos_are_still_mixed():
    asked = []
    sampler = TrainingSampler(8, batch_size=2, seed=0, mix=lambda epochs: asked.append(epochs) or epochs < 3.5)
    sampler.set_epoch(3)
    assert [draw.mix for draw in sampler] == [True] * 4 + [False] * 4
    assert asked == [3, 3.25, 3.5, 3.75]


def padding(sizes, sampler) -> float:
    """Share of the pixels of a batch that are none of its photos, in an epoch."""
    batches = sizes[[draw.photo for draw in sampler]].reshape(-1, sampler.batch_size, 2)
    return 1 - batches.prod(2).sum() / (batches.max(1).prod(1) * sampler.batch_size).sum()


def test_photos_of_similar_shapes_make_a_batch():
    rng = np.random.default_rng(0)
    sizes = np.stack([rng.integers(120, 320, 400), np.full(400, 320)], 1)
    sizes[rng.random(400) < 0.7] = sizes[rng.random(400) < 0.7][0][::-1]  # most lie down, and all these are alike
    shapes = sizes[:, 0] / sizes[:, 1]
    plain, grouped = (TrainingSampler(400, batch_size=8, seed=3, shapes=given) for given in (None, shapes))
    assert padding(sizes, grouped) < 0.3 * padding(sizes, plain)
    first = list(grouped)
    assert sorted(draw.photo for draw in first) == list(range(400))
    assert [draw.batch for draw in first] == [index // 8 for index in range(400)]
    grouped.set_epoch(1)
    together = [
        {frozenset(draw.photo for draw in epoch if draw.batch == n) for n in range(50)}
        for epoch in (first, list(grouped))
    ]
    assert not together[0] & together[1]  # no batch comes again
    # In each step, two processes see the photos of one with twice the batch.
    two = [
        list(TrainingSampler(400, batch_size=4, seed=3, shapes=shapes, num_replicas=2, rank=rank)) for rank in (0, 1)
    ]
    for batch in range(50):
        halves = {draw.photo for own in two for draw in own if draw.batch == batch}
        assert halves == {draw.photo for draw in first if draw.batch == batch}


def test_a_few_photos_are_not_sorted_lest_every_epoch_has_the_same_batches():
    shapes = np.linspace(0.5, 2, 30)
    few = TrainingSampler(30, batch_size=8, seed=3, shapes=shapes)
    assert {draw.photo for draw in few if draw.batch == 0} == {
        draw.photo for draw in TrainingSampler(30, batch_size=8, seed=3) if draw.batch == 0
    }
