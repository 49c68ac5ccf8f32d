"""Samples and batches that depend only on the seed and the ``Draw``.

A sample is the same bit for bit whichever worker or process creates it, and whether or not the run was resumed. This
also holds for unreadable photos, which training replaces by the next readable one, and for samples of several photos.
Axes: B images of a batch, G objects and R ignored regions of the whole batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from focaldet.checks import InputError, WorkerError
from focaldet.data.kept import KeptPhotos, bytes_of, can_keep
from focaldet.data.rare import drawn
from focaldet.data.records import ImageRecord
from focaldet.data.sending import sendable
from focaldet.data.transforms import EvalTransform, TrainTransform
from focaldet.data.views import View
from focaldet.photos.images import fitted_size
from focaldet.structures import GroundTruth
from focaldet.system.memory import free_bytes

SORTED_BATCHES = 16
"""Number of batches whose photos are sorted by shape. In batches of 8 COCO photos, padding falls from 26 % to 3 %."""

CACHE_SHARE = 0.25
"""Largest share of the free memory for decoded images, over all training processes of a machine."""


@dataclass(frozen=True)
class Sample:
    """One transformed image.

    Args:
        index: index of the record in the dataset.
        image: ``(3, H, W)`` RGB, uint8, or float32 in [0, 255] if ``Resize`` does not round colours.
        boxes_xyxy: ``(G, 4)`` float32, pixels of this image.
        labels: ``(G,)`` int64.
        ignored_xyxy: ``(R, 4)`` float32, ignore regions.
    """

    index: int
    image: UInt8[Tensor, "3 H W"] | Float[Tensor, "3 H W"]
    boxes_xyxy: Float[Tensor, "G 4"]
    labels: Int64[Tensor, " G"]
    ignored_xyxy: Float[Tensor, "R 4"]


class Draw(NamedTuple):
    """A request of the sampler.

    Args:
        epoch: epoch, which seeds the transform.
        photo: index of the photo.
        batch: number of the batch in the epoch, which seeds its size if sizes vary.
        mix: whether the sample may combine several photos.
        again: how often the photo has already been drawn in the epoch, which also seeds the transform.
    """

    epoch: int
    photo: int
    batch: int = 0
    mix: bool = True
    again: int = 0


class NoPhotoLeftError(WorkerError):
    """No photo of a data set can be read."""


class DetectionDataset(Dataset[Sample]):
    """Samples of image records.

    ``dataset[epoch, index]`` is a sample in an epoch, ``dataset[index]`` a sample in epoch 0, and ``dataset[Draw(…)]``
    a sample in a batch. With a ``TrainTransform``, an unreadable photo is replaced by the next readable one, with the
    augmentation of ``index`` so that the two samples of that photo differ.

    Args:
        records: one split of a ``DataFolder``.
        transform: ``TrainTransform`` or ``EvalTransform``.
        seed: random seed of the transform.
        cache_bytes: decode all images now and keep them if they need at most this many bytes; 0 disables this, ``None``
            means a quarter of the free memory. Images are no larger than the transform needs, and workers share them.
        processes: training processes on this machine, which divide that memory.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        transform: TrainTransform | EvalTransform,
        *,
        seed: int = 0,
        cache_bytes: int | None = None,
        processes: int = 1,
    ) -> None:
        self.records = tuple(records)
        self.transform = transform
        self.seed = seed
        # Shared, because workers detect unreadable photos and the main process reports them.
        self._unreadable: Tensor = torch.zeros(len(self.records), dtype=torch.bool)
        self._unreadable.share_memory_()  # type: ignore[no-untyped-call]
        self._named: set[int] = set()
        self._problems: dict[int, str] = {}
        if cache_bytes is None:
            cache_bytes = int(CACHE_SHARE * free_bytes() / processes)
        sizes = [self._kept_size(record) for record in self.records]
        fits = bytes_of(sizes) <= cache_bytes and can_keep(sizes)
        self._images = KeptPhotos(sizes, self._read) if fits else None

    def __len__(self) -> int:
        return len(self.records)

    def each_sample(self, of_photos: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert one number per photo to one per sample."""
        return of_photos

    @property
    def cached(self) -> bool:
        """Whether the decoded images are kept in memory."""
        return self._images is not None

    def __getitem__(self, key: int | tuple[int, int] | Draw) -> Sample:
        """The sample of an index, of (epoch, index), or of a ``Draw``.

        Raises:
            InputError: the photo cannot be read (``EvalTransform``), or no photo can be read (``TrainTransform``).
        """
        draw = Draw(*key) if isinstance(key, tuple) else Draw(0, key)
        if not isinstance(self.transform, TrainTransform):
            sample = self.sample(draw.photo)
            if sample is None:
                raise InputError(self._problem(draw.photo))
            return sample
        for after in range(len(self)):
            sample = self.sample((draw.photo + after) % len(self), draw)
            if sample is not None:
                return sample
        raise NoPhotoLeftError(f"no photo of the split can be read; the first one: {self._problem(0)}")

    def sample(self, index: int, draw: Draw | None = None) -> Sample | None:
        """The sample of a photo, or ``None`` if it cannot be read.

        Args:
            index: index of the photo.
            draw: seeds the transform; ``None``: the photo's transform in epoch 0.
        """
        draw = Draw(0, index) if draw is None else draw
        view = self._view(index, (self.seed, draw.epoch, draw.photo))
        if view is None:
            return None
        view = self._transformed(view, draw)
        if not view.ignored.any():
            return Sample(index, view.image, view.boxes_xyxy, view.labels, view.boxes_xyxy[:0])
        objects = ~view.ignored
        return Sample(index, view.image, view.boxes_xyxy[objects], view.labels[objects], view.boxes_xyxy[view.ignored])

    def _transformed(self, view: View, draw: Draw) -> View:
        again = (f"again {draw.again}",) if draw.again else ()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_seed_of(self.seed, draw.epoch, draw.photo, *again))
            if not isinstance(self.transform, TrainTransform):
                return self.transform(view)
            sizes = self.transform.sizes
            transform = self.transform
            if len(sizes) > 1:
                of_batch = _seed_of(self.seed, draw.epoch, draw.batch, "batch") % len(sizes)
                transform = transform.resized(sizes[of_batch])
            return transform(view, (lambda: self._another(draw)) if draw.mix else None)

    def _another(self, draw: Draw) -> View:
        """A random photo to mix with another; the next readable one if it cannot be read."""
        first = int(torch.randint(len(self), ()))
        others = ((first + after) % len(self) for after in range(len(self)))
        views = (self._view(other, (self.seed, draw.epoch, draw.photo, other)) for other in others)
        return next(view for view in views if view is not None)  # the photo that it is mixed with can be read

    def _view(self, index: int, drawn: tuple[int, ...]) -> View | None:
        """A photo before its transform, or ``None`` if it cannot be read.

        Args:
            index: index of the photo.
            drawn: numbers that seed the random draws.
        """
        record = self.records[index]
        image = self._read(index) if self._images is None else self._images[index]
        if image is None:
            return None
        scale = torch.tensor([image.shape[2] / record.width, image.shape[1] / record.height]).repeat(2)
        return View(
            image,
            torch.from_numpy(record.boxes_xyxy) * scale,
            torch.from_numpy(record.labels),
            torch.from_numpy(record.ignored),
        )

    @property
    def unreadable(self) -> Bool[Tensor, " N"]:
        """Mask of the photos that no process could read so far. They are not tried again."""
        return self._unreadable

    def set_unreadable(self, index: int, problem: str) -> None:
        """Report a photo that turned out to be unreadable elsewhere."""
        self._unreadable[index] = True
        self._problems[index] = problem

    def newly_unreadable(self) -> list[str]:
        """A line for each unreadable photo that has not been reported before."""
        new = [index for index in self._unreadable.nonzero().flatten().tolist() if index not in self._named]
        self._named.update(new)
        return [self._problem(index) for index in new]

    def newly_partial(self) -> list[str]:
        """A line for each photo with unreadable parts that has not been reported before."""
        return []

    def _kept_size(self, record: ImageRecord) -> tuple[int, int]:
        return self.transform.kept_size(record.width, record.height)

    def _decode(self, path: Path) -> UInt8[Tensor, "3 H W"]:
        return self.transform.read(path)

    def _read(self, index: int) -> UInt8[Tensor, "3 H W"] | None:
        if self._unreadable[index]:
            return None
        try:
            return self._decode(self.records[index].path)
        except InputError:
            self._unreadable[index] = True
            return None

    def _problem(self, index: int) -> str:
        path = self.records[index].path
        if index in self._problems:
            return self._problems[index]
        try:
            self._decode(path)
        except InputError as error:
            return str(error)
        return f"{path}: could not be read at first"


def _seed_of(*numbers: int | str) -> int:
    """A seed for torch from several numbers, and a word that distinguishes two uses of the same numbers."""
    entropy = [number if isinstance(number, int) else int.from_bytes(number.encode()) for number in numbers]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Batch(NamedTuple):
    """A batch for training.

    Args:
        images: ``(B, 3, H, W)`` RGB, uint8 or float in [0, 255], not normalised. Smaller images are padded with zeros
            at the bottom and right.
        valid_sizes: ``(B, 2)`` int64, (height, width) of each image without padding.
        truth: the objects of the batch.
    """

    images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"]
    valid_sizes: Int64[Tensor, "B 2"]
    truth: GroundTruth


def collate(samples: Sequence[Sample]) -> Batch:
    """Collate samples to a batch, padded at the bottom and right to the largest image.

    >>> one = Sample(0, torch.ones(3, 2, 4, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64),
    ...              torch.zeros(0, 4))
    >>> batch = collate([one, one])
    >>> tuple(batch.images.shape), batch.valid_sizes.tolist(), batch.truth.num_images
    ((2, 3, 2, 4), [[2, 4], [2, 4]], 2)
    """
    sizes = torch.tensor([sample.image.shape[-2:] for sample in samples])
    height, width = sizes.amax(0).tolist()
    images = sendable((len(samples), 3, height, width), samples[0].image.dtype)
    for image, sample in zip(images, samples, strict=True):
        _, bottom, right = sample.image.shape
        image[:, :bottom, :right] = sample.image
        image[:, bottom:] = image[:, :bottom, right:] = 0
    truth = GroundTruth(
        boxes_xyxy=torch.cat([sample.boxes_xyxy for sample in samples]),
        labels=torch.cat([sample.labels for sample in samples]),
        image_index=_image_index([len(sample.labels) for sample in samples]),
        num_images=len(samples),
        ignored_xyxy=torch.cat([sample.ignored_xyxy for sample in samples]),
        ignored_image_index=_image_index([len(sample.ignored_xyxy) for sample in samples]),
    )
    return Batch(images, sizes, truth)


def _image_index(counts: Sequence[int]) -> Int64[Tensor, " G"]:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


class TrainingSampler(Sampler[Draw]):
    """Yields a ``Draw`` for each sample: a new permutation each epoch, distributed over the processes in turn.

    Rank r of R takes every R-th entry starting at r. So in each step, R processes with batches of b together see the
    same images as one process with batches of R·b. The last, incomplete global batch is dropped; a set smaller than one
    global batch is repeated to fill it. The epoch is the only state.

    With ``factors``, an epoch keeps its length, but photos are drawn in proportion to them. A photo drawn again gets
    another augmentation.

    Args:
        num_samples: number of photos.
        batch_size, seed, num_replicas, rank: as above.
        shapes: width by height of each photo. Photos of similar shapes then share a batch, which needs less padding:
            the photos of 16 batches, or of a quarter of the epoch, are sorted by shape, and these batches are shuffled.
        mix: whether to combine several photos in a sample after this many epochs; called before each batch.

    >>> sampler = TrainingSampler(5, batch_size=2, seed=0)
    >>> len(sampler), sampler.num_batches
    (4, 2)
    """

    def __init__(
        self,
        num_samples: int,
        *,
        batch_size: int,
        seed: int,
        num_replicas: int = 1,
        rank: int = 0,
        factors: NDArray[np.float64] | None = None,
        shapes: NDArray[np.float64] | None = None,
        mix: Callable[[float], bool] = lambda epochs: True,
    ) -> None:
        if num_samples < 1:
            raise ValueError("num_samples: expected at least 1, got 0")
        assert 0 <= rank < num_replicas, (rank, num_replicas)
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.num_replicas, self.rank, self.factors = num_replicas, rank, factors
        self.shapes, self.mix = shapes, mix
        self.epoch = 0

    @property
    def num_batches(self) -> int:
        """Number of batches of this process per epoch, at least 1."""
        return max(1, self.num_samples // (self.batch_size * self.num_replicas))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_batches * self.batch_size

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng((self.seed, self.epoch))
        total = len(self) * self.num_replicas
        order = np.concatenate([self._pass(rng) for _ in range(-(-total // self.num_samples))])[:total]
        if self.shapes is not None:
            order = self._by_shape(order, self.shapes, rng)
        again = np.zeros(total, np.int64) if self.factors is None else earlier(order)
        own, times = (x[self.rank :: self.num_replicas].tolist() for x in (order, again))
        for batch in range(self.num_batches):
            mix = self.mix(self.epoch + batch / self.num_batches)
            for place in range(batch * self.batch_size, (batch + 1) * self.batch_size):
                yield Draw(self.epoch, own[place], batch, mix, times[place])

    def _by_shape(
        self, order: NDArray[np.int64], shapes: NDArray[np.float64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        together, parts = self.batch_size * self.num_replicas, []
        sorted_together = together * max(1, min(SORTED_BATCHES, self.num_batches // 4))  # or epochs would be too alike
        for first in range(0, len(order), sorted_together):
            part = order[first : first + sorted_together]
            part = part[np.argsort(shapes[part], kind="stable")]
            parts.append(rng.permutation(part.reshape(-1, together)).ravel())
        return np.concatenate(parts)

    def _pass(self, rng: np.random.Generator) -> NDArray[np.int64]:
        return rng.permutation(self.num_samples if self.factors is None else drawn(self.factors, rng))


def different_shapes(records: Sequence[ImageRecord], size: int) -> NDArray[np.float64] | None:
    """Width by height of the photos; ``None`` if all have the same canvas, so that no batch needs padding."""
    sizes = [fitted_size(record.width, record.height, size) for record in records]
    return np.array([width / height for width, height in sizes]) if len(set(sizes)) > 1 else None


def earlier(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each entry has occurred before.

    >>> earlier(np.array([3, 1, 3, 3, 1])).tolist()
    [0, 0, 1, 2, 1]
    """
    by_value = np.argsort(order, kind="stable")
    _, first, count = np.unique(order[by_value], return_index=True, return_counts=True)
    found = np.empty_like(order)
    found[by_value] = np.arange(len(order)) - np.repeat(first, count)
    return found
