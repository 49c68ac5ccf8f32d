"""With the same weights, torchvision's detectors and ours detect the same, including resizing and normalisation."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peers import give_detections
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18
from torchvision.models.detection import (
    FCOS,
    RetinaNet,
    fcos_resnet50_fpn,
    retinanet_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
)
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.retinanet import RetinaNetHead, _default_anchorgen
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d

from focaldet.cli import main
from focaldet.data.images import read_image
from focaldet.data.views import View
from focaldet.engine.detector import Detector
from focaldet.importing.run import import_checkpoint
from focaldet.importing.torchvision_models import COCO

PHOTOS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "coco_photos" / "images"
SMALL = {"min_size": 160, "max_size": 256}


@pytest.fixture(scope="module")
def photos():
    if not PHOTOS.is_dir():
        pytest.skip("needs coco_photos beside the repository, in ../shared/data")
    return sorted(PHOTOS.rglob("*.jpg"))


def small_peer(kind, norm_layer=nn.BatchNorm2d, **options):
    """The same detectors on ResNet-18, with 32 channels."""
    torch.manual_seed(0)
    extra = LastLevelP6P7(512 if kind == "v2" else 256, 256)
    backbone = _resnet_fpn_extractor(
        resnet18(weights=None, norm_layer=norm_layer), 5, returned_layers=[2, 3, 4], extra_blocks=extra
    )
    if kind == "fcos":
        return FCOS(backbone, 91, **SMALL, **options).eval()
    if kind == "v1":
        return RetinaNet(backbone, 91, **SMALL, **options).eval()
    head = RetinaNetHead(256, 9, 91, norm_layer=lambda channels: nn.GroupNorm(32, channels))
    return RetinaNet(backbone, 91, anchor_generator=_default_anchorgen(), head=head, **SMALL, **options).eval()


def imported(model, tmp_path, **options):
    """The detector here with the weights of a model, and the size of the image that the model has."""
    torch.save(model.state_dict(), tmp_path / "peer.pth")
    detector = Detector.load(import_checkpoint(tmp_path / "peer.pth", tmp_path / "run", say=print, **options))
    (short,), size = model.transform.min_size, model.transform.max_size
    detector.spec = replace(detector.spec, size=size, resize=replace(detector.spec.resize, short_side=short))
    return detector


def others(ours, theirs, class_names):
    """How many of torchvision's detections are not among ours: score within 1e-5, box within 0.01 px, same class."""
    assert len(ours) == len(theirs["scores"]) > 50
    labels = torch.tensor([class_names.index(COCO[label]) for label in theirs["labels"]])
    same = (ours.boxes_xyxy - theirs["boxes"][:, None]).abs().amax(dim=2) < 0.01
    same &= (ours.labels == labels[:, None]) & ((ours.scores - theirs["scores"][:, None]).abs() < 1e-5)
    return len(ours) - len(same.int().argmax(dim=1)[same.any(dim=1)].unique())


def assert_same(detector, model, photo):
    """From the photo on, as it is used: with rounding, of which one in a hundred may make another choice."""
    with torch.no_grad():
        theirs = model([read_image(photo).float() / 255])[0]
    ours = detector.predict(photo)
    assert others(ours, theirs, detector.class_names) <= len(ours) // 100


def assert_equal(detector, model, photo):
    """From the resized photo on, in double precision: every single detection."""
    none = torch.zeros(0, dtype=torch.int64)
    seen = detector.spec.transform(View(read_image(photo), torch.zeros(0, 4), none, none.bool())).image
    net, peer = deepcopy(detector.net).double(), deepcopy(model).double()
    with torch.no_grad():
        theirs = peer([seen.double() / 255])[0]
        (ours,) = detector.postprocess(net(seen[None].double()), [tuple(seen.shape[1:])])
    assert others(ours, theirs, detector.class_names) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["v1", "v2", "fcos"])
def test_detections_on_photos_are_torchvisions(kind, photos, tmp_path):
    model = give_detections(small_peer(kind), read_image(photos[0]).float() / 255)
    detector = imported(model, tmp_path)
    assert len(detector.class_names) == 80
    for photo in photos[:3]:
        assert_same(detector, model, photo)
        assert_equal(detector, model, photo)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "size"),
    [(retinanet_resnet50_fpn, {}), (retinanet_resnet50_fpn_v2, SMALL), (fcos_resnet50_fpn, SMALL)],
)
def test_detections_of_the_real_networks_are_torchvisions(make, size, photos, tmp_path):
    """From the photo on also at their own size, 800 to 1333 px; it changes nothing that they do differently."""
    torch.manual_seed(0)
    model = make(weights=None, weights_backbone=None, num_classes=91, **size).eval()
    model = give_detections(model, read_image(photos[0]).float() / 255)
    detector = imported(model, tmp_path)
    spec = Detector.load(tmp_path / "run").spec
    assert (spec.size, spec.resize.short_side) == (1333, 800)
    assert_same(detector, model, photos[1])
    if size:  # in double precision at the full size it takes long
        assert_equal(detector, model, photos[0])


@pytest.mark.slow
@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_epsilon_of_frozen_batch_norms_is_folded_in(eps, photos, tmp_path):
    model = small_peer("v1", FrozenBatchNorm2d)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = eps
    give_detections(model, read_image(photos[0]).float() / 255, tiny_variance=1e-4)  # where the epsilon matters
    assert not any("num_batches_tracked" in name for name in model.state_dict())
    assert_same(imported(model, tmp_path, batch_norm_eps=eps), model, photos[0])


@pytest.mark.slow
def test_names_of_older_torchvision_are_known(photos, tmp_path):
    model = give_detections(small_peer("v1"), read_image(photos[0]).float() / 255)
    old = {}
    for name, value in model.state_dict().items():
        for block in ("inner_blocks", "layer_blocks"):
            name = (
                name.replace(f"{block}.{name.split('.')[3]}.0.", f"{block}.{name.split('.')[3]}.")
                if block in name
                else name
            )
        if "_head.conv." in name:
            head, _, rest = name.partition(".conv.")
            name = f"{head}.conv.{2 * int(rest[0])}{rest[3:]}"
        old[name] = value
    assert "backbone.fpn.inner_blocks.0.weight" in old
    assert "head.regression_head.conv.6.bias" in old
    save_file(old, tmp_path / "old.safetensors")
    run = import_checkpoint(tmp_path / "old.safetensors", tmp_path / "old", say=print)
    now = imported(model, tmp_path)
    for name, value in Detector.load(run).net.state_dict().items():
        assert torch.equal(value, now.net.state_dict()[name]), name


def test_option_that_does_not_concern_the_file_is_one_line(tmp_path, capsys):
    save_file(dict(small_peer("fcos").state_dict()), tmp_path / "peer.safetensors")
    (tmp_path / "mmdet.py").write_text("model = dict()")
    command = ["import", str(tmp_path / "peer.safetensors"), "--out", str(tmp_path / "run")]
    for option, value, message in (
        ("--config", str(tmp_path / "mmdet.py"), "--config is for mmdetection"),
        ("--batch-norm-eps", "-1", "--batch-norm-eps: expected a number in [0, 1)"),
    ):
        assert main([*command, f"{option}={value}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    (tmp_path / "taken").touch()
    assert main([*command[:-1], str(tmp_path / "taken")]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_imported_run_predicts_from_the_command_line(photos, tmp_path, capsys):
    model = give_detections(small_peer("fcos"), read_image(photos[0]).float() / 255)
    torch.save({"model": model.state_dict(), "epoch": 3}, tmp_path / "peer.pth")
    assert main(["import", str(tmp_path / "peer.pth"), "--out", str(tmp_path / "run")]) == 0
    assert "torchvision's fcos_resnet50_fpn, resnet18, 80 classes" in capsys.readouterr().out
    spec = Detector.load(tmp_path / "run").spec
    assert spec.evaluation_score == spec.postprocess.score_threshold == 0.2
    assert spec.class_names[0] == "person"
    assert main(["import", str(tmp_path / "peer.pth"), "--out", str(tmp_path / "run")]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "run"), str(photos[0]), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "predictions.json").exists()


@pytest.fixture(scope="module")
def retinanet():
    """To read, not to change."""
    return small_peer("v1")


def broken(model, tmp_path, change, **options):
    weights = dict(model.state_dict())
    change(weights)
    torch.save(weights, tmp_path / "broken.pth")
    with pytest.raises(ValueError, match=r"broken\.pth") as error:
        import_checkpoint(tmp_path / "broken.pth", tmp_path / "none", **options)
    assert not (tmp_path / "none").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


LOGITS = "head.classification_head.cls_logits"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("backbone.body.layer3.1.conv2.weight"), "first 'backbone.body.layer3.1.conv2.weight'"),
        (lambda w: w.pop("backbone.fpn.extra_blocks.p6.weight"), "'backbone.fpn.extra_blocks.p6.weight' is missing"),
        (lambda w: w.update({"roi_heads.box.weight": torch.ones(1)}), "are unexpected, first 'roi_heads.box.weight'"),
        (lambda w: w.update({"backbone.body.conv1.weight": torch.ones(64, 3, 3, 3)}), r"expected (64, 3, 7, 7)"),
        (lambda w: w.update({f"{LOGITS}.weight": torch.ones(100, 256, 3, 3)}), "expected a multiple of 9 anchors"),
        (lambda w: w.update({f"{LOGITS}.bias": torch.ones(9 * 5)}), "has 45 rows, expected 819"),
        (lambda w: w.pop(f"{LOGITS}.weight"), "expected RetinaNet or FCOS from torchvision, or"),
        (lambda w: [w.pop(name) for name in list(w) if "layer4.1" in name], "found blocks (2, 2, 2, 1)"),
    ],
)
def test_state_dict_that_does_not_fit_is_one_line(change, message, retinanet, tmp_path):
    assert message in broken(retinanet, tmp_path, change)


@pytest.mark.slow
def test_names_of_classes_are_those_of_the_file(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"thing {i}" for i in range(90)))
    model = small_peer("fcos")
    detector = imported(model, tmp_path, class_names=names)
    assert detector.class_names[1] == "thing 1"
    bias = detector.net.head.class_logits.bias
    assert torch.equal(bias, model.state_dict()[f"{LOGITS}.bias"][1:])
    names.write_text("one\ntwo\n")
    assert "2 names; the file has 91 class columns" in broken(model, tmp_path, lambda w: None, class_names=names)


@pytest.mark.slow
def test_classes_without_a_name_are_numbered_as_torchvision_does(tmp_path):
    torch.manual_seed(0)
    model = small_peer("v1")
    weights = model.state_dict()
    weights[f"{LOGITS}.weight"] = weights[f"{LOGITS}.weight"][: 9 * 4]
    weights[f"{LOGITS}.bias"] = torch.arange(36.0)
    torch.save(weights, tmp_path / "own.pth")
    detector = Detector.load(import_checkpoint(tmp_path / "own.pth", tmp_path / "own", say=print))
    assert detector.class_names == ("class 1", "class 2", "class 3")
    assert detector.net.head.class_logits.bias.tolist() == [i for i in range(36) if i % 4]
