"""Checkpoints of mmdetection other than version 3's: forks, older versions, other networks."""

import ast
from pathlib import Path

import pytest
import torch
from mmdet_record import TOOL, record, weights, zeros

from focaldet.checks import InputError
from focaldet.cli import main
from focaldet.engine.detect import to_photo
from focaldet.engine.detector import Detector
from focaldet.engine.spec import METHODS
from focaldet.importing.checkpoint import Checkpoint
from focaldet.importing.fitting import fit
from focaldet.importing.mmdet import read_mmdet
from focaldet.methods.gfl import GFL
from focaldet.models.postprocess import PostProcess
from focaldet.structures import HeadOutputs

OLD = """/home/user/work_dirs/gfl.py
norm = dict(mean=[1.5, 2.5, 3.5], std=[1, 1, 1], to_rgb=False)
model = dict(
    type='GFL',
    backbone=dict(type='ResNet', depth=50, style='caffe'),
    neck=dict(type='FPN', start_level=1, num_outs=5, add_extra_convs=True, extra_convs_on_inputs=False),
    bbox_head=dict(type='GFLHead', num_classes=4, octave_base_scale=8, scales_per_octave=1, anchor_ratios=[1.0],
                   anchor_strides=[8, 16, 32, 64, 128], loss_bbox=dict(type='GIoULoss', loss_weight=2.0)))
test_cfg = dict(nms_pre=500, score_thr=0.1, nms=dict(type='nms', iou_thr=0.45), max_per_img=50)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(667, 400), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True), dict(type='Normalize', **norm), dict(type='Pad', size_divisor=64)])]
optimizer = dict(type=open)
"""
"""A configuration as versions 1 wrote it."""


def understood(state, **meta):
    return read_mmdet(Checkpoint(Path("file.pth"), state, meta))


def imported(state, **meta):
    source = understood(state, **meta)
    net, method = source.spec.build()
    fit(net, source, Path("file.pth"))
    return source, net.eval(), method


@pytest.mark.slow
def test_gflv2_is_known_by_its_quality_branch():
    state, text = weights("gfl"), record("gfl")[1]
    for name, shape in {"0.weight": (64, 20, 1, 1), "0.bias": (64,), "2.weight": (1, 64, 1, 1), "2.bias": (1,)}.items():
        state[f"bbox_head.reg_conf.{name}"] = TOOL.weights_of(f"reg_conf.{name}", shape)
    source, net, _ = imported(state, cfg=text.replace("GFLHead", "GFocalHead"))
    assert source.spec.method == "gflv2"
    with torch.no_grad():
        outputs = net(TOOL.image()[None])
        probs = outputs.box_maps[1].reshape(1, 4, 17, 4, 6).softmax(dim=2)
        largest = probs.topk(4, dim=2).values
        numbers = torch.cat([largest, largest.mean(dim=2, keepdim=True)], dim=2).reshape(1, 20, 4, 6)
        first, second = (state[f"bbox_head.reg_conf.{layer}.weight"] for layer in (0, 2))
        hidden = torch.conv2d(numbers, first, state["bbox_head.reg_conf.0.bias"]).relu()
        quality = torch.conv2d(hidden, second, state["bbox_head.reg_conf.2.bias"])
    torch.testing.assert_close(outputs.quality_logits[1], quality, atol=1e-5, rtol=1e-5)


def test_configuration_of_version_1_is_read():
    state = weights("gfl")
    state["bbox_head.distribution_project.project"] = state.pop("bbox_head.integral.project")
    source, net, _ = imported(state, config=OLD, mmdet_version="1.1.0", CLASSES=("a", "b", "c"))
    spec, config = source.spec, source.spec.postprocess
    assert spec.class_names == ("a", "b", "c")
    assert (spec.size, spec.resize.short_side, spec.resize.resampling) == (667, 400, "opencv")
    assert (spec.network.bottleneck_stride, spec.network.pad_to, spec.network.p6_from) == ("1x1", 64, "p5")
    assert (config.topk_candidates, config.score_threshold, config.nms_iou, config.max_detections) == (
        500,
        0.1,
        0.45,
        50,
    )
    assert spec.evaluation_score == 0.1
    assert net.mean.flatten().tolist() == [3.5, 2.5, 1.5]
    assert torch.equal(net.backbone.net.conv1.weight, state["backbone.conv1.weight"].flip(1))


def test_boxes_of_version_1_end_with_their_last_pixel():
    state = zeros("gfl")
    postprocess = understood(state, config=OLD).spec.postprocess
    logits, sides = torch.full((1, 1, 4, 4), -9.0), torch.zeros(1, 68, 4, 4)
    logits[0, 0, 1, 2], sides[:, 1::17] = 3.0, 60.0  # one stride to each side
    (found,) = PostProcess(GFL(), (8,), postprocess)(HeadOutputs([logits], [sides]), [(32, 32)])
    # Version 1: the centre of a cell is i s + (s - 1) / 2, boxes are cut at the last pixel, and w = x2 - x1 + 1.
    cx, cy = 2 * 8 + 3.5, 1 * 8 + 3.5
    assert found.boxes_xyxy.tolist() == [[cx - 8, cy - 8, cx + 8, cy + 8]]
    photo = to_photo(found, (32, 32), (16, 16), last_pixel=postprocess.last_pixel).boxes_xyxy
    assert photo.tolist() == [[(cx - 8) / 2, (cy - 8) / 2, (cx + 8) / 2 + 1, (cy + 8) / 2 + 1]]


def test_checkpoint_that_does_not_say_is_taken_for_the_zoos():
    state = zeros("gfl")
    source = understood(state)
    assert "assuming mmdetection's gfl_r50_fpn" in source.notes[0]
    assert source.spec.class_names == ("class 1", "class 2", "class 3")
    with_config = record("gfl")[1]
    assert source.spec == understood(state, cfg=with_config).spec


@pytest.mark.parametrize("name", ["retinanet", "fcos", "fcos_center", "atss"])
def test_the_zoos_detector_is_what_its_configuration_says(name):
    state, text = zeros(name), record(name)[1]
    bare = read_mmdet(Checkpoint(Path("x"), state)).spec
    told = read_mmdet(Checkpoint(Path("x"), state, {"cfg": text})).spec
    assert bare.network == told.network
    assert bare.postprocess == told.postprocess
    assert bare.resize == told.resize
    method = METHODS[told.method]
    assert method(**told.method_options) == method(**bare.method_options)


def test_names_of_fcos_in_early_versions_are_known():
    state, text = zeros("fcos"), record("fcos")[1]
    early = {name.replace("bbox_head.conv_", "bbox_head.fcos_"): value for name, value in state.items()}
    assert early.keys() != state.keys()
    now, then = (read_mmdet(Checkpoint(Path("x"), w, {"cfg": text})) for w in (state, early))
    assert then.spec == now.spec
    assert then.weights.keys() == now.weights.keys()


@pytest.mark.parametrize("depth", [101, 18])
def test_depth_of_the_resnet_is_read_from_the_names(depth):
    state = zeros("gfl")
    if depth == 101:
        for block in range(6, 23):
            state |= {n.replace("layer3.1.", f"layer3.{block}."): v for n, v in state.items() if "layer3.1." in n}
        assert understood(state).spec.backbone == "resnet101"
    else:
        with pytest.raises(InputError, match=r"found bottlenecks \(3, 4, 1, 3\)"):
            understood({n: v for n, v in state.items() if "layer3" not in n or "layer3.0" in n})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("type='GFLHead'", "type='VFNetHead'", "bbox_head: expected 'GFLHead', found 'VFNetHead'"),
        ("type='ResNet'", "type='ResNeXt'", "backbone: expected 'ResNet', found 'ResNeXt'"),
        ("num_classes=3", "num_classes=80", "num_classes: expected (3, 4), found 80"),
        ("type='nms'", "type='soft_nms'", "nms: expected 'nms', found 'soft_nms'"),
        ("octave_base_scale=8", "octave_base_scale=4", "octave_base_scale: expected 8, found 4"),
        ("add_extra_convs='on_output'", "add_extra_convs='on_lateral'", "add_extra_convs"),
        ("start_level=1", "start_level=0", "start_level: expected 1, found 0"),
        ("model = dict(", "model = open(", "model: expected dict(...), found None"),
        ("model = dict(", "model = dict(]", "not Python"),
    ],
)
def test_configuration_of_another_detector_is_one_line(old, new, message):
    state, text = zeros("gfl"), record("gfl")[1]
    assert old in text
    with pytest.raises(InputError) as error:
        understood(state, cfg=text.replace(old, new))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("value", ["None", "'x'", "[]", "{}", "(1, 2, 3, 4)", "dict(a=1)", "-1", "1e400", "10**9"])
def test_any_other_value_in_a_configuration_is_taken_or_one_line(value):
    """Every expression of it in turn is replaced."""
    state, text = zeros("gfl"), record("gfl")[1]
    tree, new = ast.parse(text), ast.parse(value, mode="eval").body
    fields = [(n, f, i) for n in ast.walk(tree) for f, v in ast.iter_fields(n) for i in places(v)]
    refused = []
    for node, name, index in fields:
        holder, key = (vars(node), name) if index is None else (getattr(node, name), index)
        before, holder[key] = holder[key], new
        try:
            changed = ast.unparse(tree)
        except (ValueError, AttributeError):  # a name may not be a value
            continue
        finally:
            holder[key] = before
        try:
            understood(state, cfg=changed)
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > len(fields) / 20
    assert not any("\n" in message for message in refused)


def places(value):
    """Where an expression stands in a field of a syntax tree: None for the field itself."""
    items = enumerate(value) if isinstance(value, list) else [(None, value)]
    return [index for index, item in items if isinstance(item, ast.expr)]


def test_other_heads_and_versions_are_one_line():
    state, text = weights("gfl"), record("gfl")[1]
    other = {name.replace("gfl_cls", "vfnet_cls"): value for name, value in state.items()}
    with pytest.raises(InputError, match="expected one of RetinaHead, FCOSHead, ATSSHead, GFocalHead, GFLHead"):
        understood(other)
    more = state | {"backbone.layer2.0.conv2.conv_offset.weight": torch.ones(1)}
    with pytest.raises(InputError, match=r"are unexpected, first 'backbone\.layer2\.0\.conv2\.conv_offset\.weight'"):
        imported(more, cfg=text)
    atss, text = zeros("atss"), record("atss")[1]
    with pytest.raises(InputError, match="of mmdetection 1"):
        understood(atss, cfg=text.replace("num_classes=3", "num_classes=4"))


@pytest.mark.slow
def test_checkpoint_of_mmdetection_is_imported_from_the_command_line(tmp_path, capsys):
    state, text = weights("gfl"), record("gfl")[1]
    (tmp_path / "config.py").write_text(text)
    (tmp_path / "names.txt").write_text("cat\ndog\ncow\n")
    torch.save({"state_dict": state, "meta": {"epoch": 12}}, tmp_path / "gfl.pth")
    command = ["import", str(tmp_path / "gfl.pth"), "--out", str(tmp_path / "run"), "--config"]
    names = ["--class-names", str(tmp_path / "names.txt")]
    assert main([*command, str(tmp_path / "config.py"), *names]) == 0
    assert "mmdetection's GFLHead, resnet50, 3 classes" in capsys.readouterr().out
    detector = Detector.load(tmp_path / "run")
    assert detector.class_names == ("cat", "dog", "cow")
    assert detector.predict(TOOL.image().permute(1, 2, 0).numpy()).side_std_px is not None
    assert main(["import", str(tmp_path / "gfl.pth"), "--config", str(tmp_path / "none.py")]) == 2
    assert f"{tmp_path / 'none.py'}: no such file" in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    assert main(["import", str(tmp_path / "gfl.pth"), "--out", str(tmp_path / "other"), *names]) == 2
    assert "2 names; the file has 3 classes" in capsys.readouterr().err
