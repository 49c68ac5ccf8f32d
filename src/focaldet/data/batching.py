"""Samples and batches that depend only on (seed, epoch, index).

A sample is the same to the bit whichever worker or process creates it, and whether or not the run was resumed. This
also holds for unreadable photos, which training replaces by the next readable one.
Axes: B images of a batch, G objects and R ignored regions of the whole batch.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from focaldet.checks import InputError
from focaldet.data.records import ImageRecord
from focaldet.data.transforms import EvalTransform, TrainTransform, View
from focaldet.photos.images import fitted_size, no_size_warnings
from focaldet.structures import GroundTruth
from focaldet.system.cores import cores

CACHE_BYTES = 1 << 30
"""Memory limit for keeping all decoded images (1 GiB per process; forked workers share it)."""


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


class NoPhotoLeftError(InputError):
    """No photo of a data set can be read.

    ``DataLoader`` re-creates a worker's error with its traceback as the message; only the last line is kept.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.strip().splitlines()[-1].removeprefix(f"{__name__}.NoPhotoLeftError: "))


class DetectionDataset(Dataset[Sample]):
    """Samples of image records.

    ``dataset[epoch, index]`` is the sample in an epoch; ``dataset[index]`` is that of epoch 0. With a
    ``TrainTransform``, an unreadable photo is replaced by the next readable one, with the augmentation of ``index`` so
    that the two samples of that photo differ.

    Args:
        records: one split of a ``DataFolder``.
        transform: ``TrainTransform`` or ``EvalTransform``.
        seed: random seed of the transform.
        cache_bytes: decode all images now and keep them if they need at most this many bytes; 0 disables this. They are
            kept no larger than the transform needs.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        transform: TrainTransform | EvalTransform,
        *,
        seed: int = 0,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.records = tuple(records)
        self.transform = transform
        self.seed = seed
        # Shared, because workers detect unreadable photos and the main process reports them.
        self._unreadable: Tensor = torch.zeros(len(self.records), dtype=torch.bool)
        self._unreadable.share_memory_()  # type: ignore[no-untyped-call]
        self._named: set[int] = set()
        self._images: list[UInt8[Tensor, "3 H W"] | None] | None = None
        if sum(_source_bytes(r, transform.source_side) for r in self.records) <= cache_bytes:
            with no_size_warnings(), ThreadPoolExecutor(max_workers=max(2, cores())) as pool:
                self._images = list(pool.map(self._read, range(len(self.records))))

    def __len__(self) -> int:
        return len(self.records)

    @property
    def cached(self) -> bool:
        """Whether the decoded images are kept in memory."""
        return self._images is not None

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """The sample of an index, or of (epoch, index).

        Raises:
            InputError: the photo cannot be read (``EvalTransform``), or no photo can be read (``TrainTransform``).
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not isinstance(self.transform, TrainTransform):
            sample = self.sample(index, epoch=epoch)
            if sample is None:
                raise InputError(self._problem(index))
            return sample
        for after in range(len(self)):
            sample = self.sample((index + after) % len(self), epoch=epoch, drawn_as=index)
            if sample is not None:
                return sample
        raise NoPhotoLeftError(f"no photo of the split can be read; the first one: {self._problem(0)}")

    def sample(self, index: int, *, epoch: int = 0, drawn_as: int | None = None) -> Sample | None:
        """The sample of a photo, or ``None`` if it cannot be read.

        Args:
            index: index of the photo.
            epoch: epoch, which seeds the transform.
            drawn_as: index that seeds the transform; ``None``: ``index``.
        """
        record = self.records[index]
        image = self._read(index) if self._images is None else self._images[index]
        if image is None:
            return None
        scale = torch.tensor([image.shape[2] / record.width, image.shape[1] / record.height]).repeat(2)
        view = View(
            image,
            torch.from_numpy(record.boxes_xyxy) * scale,
            torch.from_numpy(record.labels),
            torch.from_numpy(record.ignored),
        )
        with torch.random.fork_rng(devices=[]):
            drawn = (self.seed, epoch, index if drawn_as is None else drawn_as)
            state = np.random.SeedSequence(drawn).generate_state(1, np.uint64)
            torch.default_generator.manual_seed(int(state[0] >> np.uint64(1)))
            view = self.transform(view)
        objects = ~view.ignored
        return Sample(index, view.image, view.boxes_xyxy[objects], view.labels[objects], view.boxes_xyxy[view.ignored])

    @property
    def unreadable(self) -> Bool[Tensor, " N"]:
        """Mask of the photos that no process could read so far. They are not tried again."""
        return self._unreadable

    def newly_unreadable(self) -> list[str]:
        """A line for each unreadable photo that has not been reported before."""
        new = [index for index in self._unreadable.nonzero().flatten().tolist() if index not in self._named]
        self._named.update(new)
        return [self._problem(index) for index in new]

    def _read(self, index: int) -> UInt8[Tensor, "3 H W"] | None:
        if self._unreadable[index]:
            return None
        try:
            return self.transform.read(self.records[index].path)
        except InputError:
            self._unreadable[index] = True
            return None

    def _problem(self, index: int) -> str:
        path = self.records[index].path
        try:
            self.transform.read(path)
        except InputError as error:
            return str(error)
        return f"{path}: could not be read at first"


def _source_bytes(record: ImageRecord, max_side: int) -> int:
    size = (record.width, record.height)
    width, height = fitted_size(*size, max_side) if max(size) > max_side else size
    return 3 * width * height


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
    if bool((sizes == sizes[0]).all()):
        images = torch.stack([sample.image for sample in samples])
    else:
        images = samples[0].image.new_zeros(len(samples), 3, height, width)
        for image, sample in zip(images, samples, strict=True):
            image[:, : sample.image.shape[1], : sample.image.shape[2]] = sample.image
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


class TrainingSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index) pairs: a new permutation each epoch, distributed over the processes in turn.

    Rank r of R takes every R-th entry starting at r. So in each step, R processes with batches of b together see the
    same images as one process with batches of R·b. The last, incomplete global batch is dropped; a set smaller than one
    global batch is repeated to fill it. The epoch is the only state.

    >>> sampler = TrainingSampler(5, batch_size=2, seed=0)
    >>> len(sampler), sampler.num_batches
    (4, 2)
    """

    def __init__(self, num_samples: int, *, batch_size: int, seed: int, num_replicas: int = 1, rank: int = 0) -> None:
        if num_samples < 1:
            raise ValueError("num_samples: expected at least 1, got 0")
        assert 0 <= rank < num_replicas, (rank, num_replicas)
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.num_replicas, self.rank = num_replicas, rank
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

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        total = len(self) * self.num_replicas
        order = np.concatenate([rng.permutation(self.num_samples) for _ in range(-(-total // self.num_samples))])
        for index in order[:total][self.rank :: self.num_replicas].tolist():
            yield self.epoch, index
