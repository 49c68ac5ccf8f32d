"""A user's own transform: its source, its inputs, and the checks of its results."""

import pickle
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from focaldet.checks import InputError
from focaldet.data.batching import DetectionDataset, collate
from focaldet.data.folder import read_folder
from focaldet.data.own_transform import OwnTransform, load_transform
from focaldet.data.transforms import TrainTransform

from .builders import write_coco

SOURCE = """
import random
import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

mirror = v2.RandomHorizontalFlip(p=1)
usual = v2.Compose([v2.RandomPhotometricDistort(), v2.RandomZoomOut(fill=114), v2.RandomIoUCrop()])

def blank(image, target):
    return image * 0, target

def noisy(image, target):
    return tv_tensors.wrap(image * 0 + random.randrange(100) + np.random.randint(100), like=image), target

def ignore_all(image, target):
    return image, target | {"labels": torch.full_like(target["labels"], -2)}

def drop_all(image, target):
    return image, {"boxes": target["boxes"][:0], "labels": target["labels"][:0]}

def fails(image, target):
    raise KeyError("a\\nb")

def image_alone(image, target):
    return image

def scaled(image, target):
    return image / 255, target

def no_boxes(image, target):
    return image, {"labels": target["labels"]}

def centres(image, target):
    return image, target | {"boxes": v2.ConvertBoundingBoxFormat("CXCYWH")(target["boxes"])}

def one_label(image, target):
    return image, target | {"labels": target["labels"][:1]}

def new_class(image, target):
    return image, target | {"labels": target["labels"] + 7}

number = 3
"""


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(SOURCE)
    return file


@pytest.fixture
def records(tmp_path):
    write_coco(tmp_path / "photos")
    folder = read_folder(tmp_path / "photos")
    return folder.splits["train"] + folder.splits["val"]


def dataset(records, file, name, **options) -> DetectionDataset:
    own = OwnTransform(f"{file}:{name}", 2)
    return DetectionDataset(records, TrainTransform(64, strength="none", own=own), seed=3, **options)


def test_a_transform_of_torchvision_moves_photo_and_boxes(records, file):
    plain = DetectionDataset(records, TrainTransform(64, strength="none"))[0]
    mirrored = dataset(records, file, "mirror")[0]
    assert torch.equal(mirrored.image, plain.image.flip(2))
    assert torch.equal(mirrored.boxes_xyxy[:, 0], 64 - plain.boxes_xyxy[:, 2])


def test_torchvision_detection_recipe_runs_and_is_seeded(records, file):
    one, two = dataset(records, file, "usual"), dataset(records, file, "usual", cache_bytes=0)
    for epoch in range(5):
        torch.manual_seed(epoch)
        assert torch.equal(one[epoch, 0].image, two[epoch, 0].image)
    assert not torch.equal(one[0, 0].image, one[1, 0].image)
    assert one[0, 0].image.shape == (3, 48, 64)  # whatever size it gave back


def test_generators_of_python_and_numpy_are_seeded_and_left_as_they_were(records, file):
    noisy = dataset(records, file, "noisy")
    random.seed(1), np.random.seed(1)  # noqa: NPY002
    expected = random.random(), np.random.rand()  # noqa: NPY002
    random.seed(1), np.random.seed(1)  # noqa: NPY002
    values = {int(noisy[epoch, 0].image[0, 0, 0]) for epoch in range(8)}
    assert (random.random(), np.random.rand()) == expected  # noqa: NPY002
    assert len(values) > 3
    assert values == {int(noisy[epoch, 0].image[0, 0, 0]) for epoch in range(8)}


def test_the_photo_that_is_kept_stays_as_it_was(records, file):
    blank = dataset(records, file, "blank")
    assert int(blank[0].image.max()) == 0
    assert blank._images is not None
    assert int(blank._images[0].max()) > 0


def test_objects_can_become_ignore_regions_or_background(records, file):
    count = len(DetectionDataset(records, TrainTransform(64, strength="none"))[0].labels)
    ignored = dataset(records, file, "ignore_all")[0]
    assert (len(ignored.labels), len(ignored.ignored_xyxy)) == (0, count)
    dropped = dataset(records, file, "drop_all")[0]
    assert (len(dropped.labels), len(dropped.ignored_xyxy)) == (0, 0)


def test_a_worker_loads_it_for_itself(records, file):
    mirrored = dataset(records, file, "mirror")
    expected = mirrored[0].image
    mirrored.transform.own = pickle.loads(pickle.dumps(OwnTransform(f"{file}:mirror", 2)))
    assert torch.equal(mirrored[0].image, expected)


def test_a_fault_in_a_worker_is_the_same_line(records, file):
    loader = DataLoader(dataset(records, file, "fails"), num_workers=1, collate_fn=collate)
    with pytest.raises(InputError) as caught:
        next(iter(loader))
    assert str(caught.value) == f"--transform {file}:fails: failed with KeyError: 'a\\nb'"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fails", "failed with KeyError: 'a.*b'"),
        ("image_alone", "expected it to return image, target; got an Image"),
        ("scaled", r"an image \(3, H, W\) of uint8; got Tensor of shape \(3, 48, 64\), torch.float32"),
        ("no_boxes", r'target\["boxes"\] \(N, 4\) of finite numbers; got None'),
        ("centres", r'target\["boxes"\] in XYXY; got CXCYWH'),
        ("one_label", r'target\["labels"\] \(2,\) of whole numbers, one per box; got Tensor of shape \(1,\)'),
        ("new_class", "labels from 0 to 1, or -2 for an ignore region; got [78]"),
    ],
)
def test_what_it_gives_back_is_checked_in_one_line(records, file, name, words):
    with pytest.raises(InputError, match=words) as caught:
        dataset(records, file, name)[0]
    assert str(caught.value).startswith(f"--transform {file}:{name}: ")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("mine.py", "expected FILE.py:NAME or MODULE:NAME"),
        ("nothing.py:mirror", "nothing.py: no such file"),
        ("no_such_module:mirror", r"cannot be loaded \(ModuleNotFoundError: No module named 'no_such_module'\)"),
        ("mine.py:miror", "has no 'miror'; did you mean 'mirror'?"),
        ("mine.py:number", "expected a function or a transform, got an int"),
        ("broken.py:mirror", r"cannot be loaded \(SyntaxError: "),
    ],
)
def test_a_place_that_has_no_transform_is_named(tmp_path, monkeypatch, file, place, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("def mirror(:")
    with pytest.raises(InputError, match=words):
        load_transform(place)


def test_a_module_is_a_place_too():
    assert load_transform("torchvision.transforms.v2.functional:horizontal_flip") is not None
