from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from focaldet.checks import InputError
from focaldet.models import backbone as backbones
from focaldet.models.backbone import Backbone, check_any_size, freeze_batch_norm, load_backbone_weights

SMALL = "test_resnet"  # timm's own network for tests
WEIGHTS = Path(__file__).resolve().parents[2].parent / "shared" / "weights" / "tf_efficientnet_lite0.safetensors"


def images(height=64, width=96, seed=0):
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def lite0_file():
    if not WEIGHTS.is_file():
        pytest.skip("needs tf_efficientnet_lite0.safetensors beside the repository, in ../shared/weights")
    return WEIGHTS


@pytest.mark.parametrize("name", [SMALL, "test_efficientnet", "resnet18", "convnext_atto", "mobilenetv3_small_050"])
def test_maps_have_strides_8_16_32_and_the_channels_that_are_told(name):
    backbone = Backbone(name).eval()
    with torch.no_grad():
        maps = backbone(images())
    assert [tuple(m.shape) for m in maps] == [
        (1, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(backbone.channels, (8, 16, 32), strict=True)
    ]


def test_maps_of_a_network_that_writes_channels_last_have_their_channels_first():
    backbone = Backbone("mambaout_femto").eval()
    assert backbone.channels_last_output
    with torch.no_grad():
        maps = backbone(images())
    assert [m.shape[1] for m in maps] == backbone.channels
    assert [tuple(m.shape[2:]) for m in maps] == [(8, 12), (4, 6), (2, 3)]


def test_mean_and_deviation_are_what_timm_says_of_the_weights():
    for name in (SMALL, "test_efficientnet"):
        config = timm.create_model(name).pretrained_cfg
        backbone = Backbone(name)
        assert (backbone.mean, backbone.std) == (config["mean"], config["std"])
    assert Backbone(SMALL).mean != Backbone("test_efficientnet").mean


def test_weights_are_made_once(monkeypatch):
    """What timm is asked for before, to learn the strides, has none; and it is asked once."""
    backbones.feature_strides.cache_clear()
    made, create = [], timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda *args, **options: made.append(create(*args, **options)) or made[-1]
    )
    two = Backbone(SMALL), Backbone(SMALL)
    kinds = [{parameter.device.type for parameter in net.parameters()} for net in made]
    assert kinds == [{"meta"}, {"cpu"}, {"cpu"}]
    assert made[1:] == [backbone.net for backbone in two]


def test_unknown_network_is_an_error_that_names_the_near_one():
    with pytest.raises(
        InputError, match=r"--backbone resnet81: timm .* has no such network; did you mean 'resnet18'\?"
    ):
        Backbone("resnet81")


def test_unknown_network_without_a_near_one_tells_where_the_names_are():
    with pytest.raises(InputError, match=r"see timm\.list_models\(\)"):
        Backbone("x")


def test_network_without_the_strides_is_an_error_that_tells_its_strides():
    with pytest.raises(InputError, match="no feature map of stride 8"):
        Backbone("test_vit")


@pytest.mark.parametrize(
    "name",
    [
        "coat_lite_tiny",
        "halonet26t",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("mvitv2_tiny", "maxvit_nano_rw_256", "gcvit_xxtiny")),
    ],
)
def test_network_of_one_image_size_is_an_error_that_names_others(name):
    with pytest.raises(InputError, match=rf"--backbone {name}: requires a fixed image size.*resnet18") as caught:
        check_any_size(Backbone(name))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "swinv2_cr_tiny_ns_224"])
def test_swin_transformer_trains_on_images_of_any_size(name):
    backbone = Backbone(name)
    assert backbone.training
    for height, width in ((256, 320), (320, 256), (32, 96)):
        maps = backbone(images(height, width))
        assert [tuple(m.shape[1:]) for m in maps] == [
            (channels, height // stride, width // stride)
            for channels, stride in zip(backbone.channels, (8, 16, 32), strict=True)
        ]
        backbone.zero_grad()
        sum(level.square().mean() for level in maps).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


@pytest.mark.slow
def test_swin_transformer_of_any_size_gives_timms_features_at_its_own_size():
    torch.manual_seed(0)
    free = Backbone("swin_tiny_patch4_window7_224").eval()
    fixed = timm.create_model("swin_tiny_patch4_window7_224", features_only=True, out_indices=(1, 2, 3)).eval()
    fixed.load_state_dict(free.net.state_dict())
    with torch.no_grad():
        for ours, theirs in zip(free(images(224, 224)), fixed(images(224, 224)), strict=True):
            torch.testing.assert_close(ours, theirs.permute(0, 3, 1, 2))


def test_unknown_variant_of_a_known_network_is_an_error_in_one_line():
    with pytest.raises(InputError, match=r"--backbone test_resnet\.nope: .*nope") as caught:
        Backbone("test_resnet.nope")
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_fetched_are_an_error_with_the_offline_remedy(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"HF_HUB_OFFLINE is set.*--backbone-weights.*--no-pretrained") as caught:
        Backbone(SMALL, pretrained=True)
    assert "\n" not in str(caught.value)


def test_weight_file_loads_every_tensor_and_gives_timms_features(lite0_file):
    backbone = Backbone("tf_efficientnet_lite0").eval()
    load_backbone_weights(backbone, lite0_file)
    own = {key.replace(".", "_"): value for key, value in backbone.net.state_dict().items()}
    stored = {key.replace(".", "_"): value for key, value in load_file(lite0_file).items()}
    assert set(own) <= set(stored)
    assert all(torch.equal(value, stored[key]) for key, value in own.items())

    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    classifier.load_state_dict(load_file(lite0_file), strict=False)
    with torch.no_grad():
        expected = classifier.forward_intermediates(images(64, 64), intermediates_only=True)[-3:]
        found = backbone(images(64, 64))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_weights_go_to_a_file_and_back(tmp_path):
    torch.manual_seed(0)
    first, second = Backbone(SMALL).eval(), Backbone(SMALL).eval()
    save_file(first.net.state_dict(), tmp_path / "net.safetensors")
    with torch.no_grad():
        assert not torch.equal(first(images())[-1], second(images())[-1])
        load_backbone_weights(second, tmp_path / "net.safetensors")
        assert all(torch.equal(a, b) for a, b in zip(first(images()), second(images()), strict=True))


def test_weights_of_another_network_are_an_error_that_counts_what_is_missing(tmp_path):
    save_file(Backbone("test_efficientnet").net.state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"does not fit --backbone test_resnet: \d+ of its \d+ tensors are not in"):
        load_backbone_weights(Backbone(SMALL), tmp_path / "other.safetensors")


def test_weights_of_another_width_are_an_error_that_tells_both_shapes(tmp_path):
    weights = dict(Backbone(SMALL).net.state_dict())
    key = next(key for key, value in weights.items() if value.ndim == 4)
    weights[key] = weights[key][:-1].contiguous()
    save_file(weights, tmp_path / "narrow.safetensors")
    backbone = Backbone(SMALL)
    before = {key: value.clone() for key, value in backbone.net.state_dict().items()}
    with pytest.raises(InputError, match=r"has shape \(.*\), expected \("):
        load_backbone_weights(backbone, tmp_path / "narrow.safetensors")
    assert all(torch.equal(value, before[key]) for key, value in backbone.net.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"these are not weights, but some words\n"])
def test_file_that_is_not_safetensors_is_an_error(tmp_path, content):
    (tmp_path / "words.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_backbone_weights(Backbone(SMALL), tmp_path / "words.safetensors")


def test_missing_file_and_folder_are_errors(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_backbone_weights(Backbone(SMALL), tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="a folder; expected a file"):
        load_backbone_weights(Backbone(SMALL), tmp_path)


def test_frozen_batch_norm_uses_its_stored_statistics_and_learns_nothing():
    backbone = Backbone(SMALL).train()
    freeze_batch_norm(backbone)
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
    sum(level.square().mean() for level in backbone(images())).backward()
    assert norms
    for norm, (mean, var) in zip(norms, before, strict=True):
        assert torch.equal(norm.running_mean, mean)
        assert torch.equal(norm.running_var, var)
        assert norm.weight.grad is None
        assert not norm.weight.requires_grad
    convolutions = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    assert all(m.weight.grad is not None for m in convolutions)
    assert backbone.training


@pytest.mark.parametrize(
    ("name", "count", "last", "first"),
    [
        ("resnet18", 1, "layer1.1.bn2.bias", "layer2.0.conv1.weight"),
        ("resnet18", 2, "layer2.1.bn2.bias", "layer3.0.conv1.weight"),
        ("tf_efficientnet_lite0", 1, "blocks.1.1.bn3.bias", "blocks.2.0.conv_pw.weight"),
        ("convnext_atto", 1, "stages_0.blocks.1.mlp.fc2.bias", "stages_1.downsample.0.weight"),
    ],
)
def test_frozen_stages_end_with_the_map_of_their_stride(name, count, last, first):
    backbone = Backbone(name).train()
    backbone.freeze_stages(count)
    learns = {key: parameter.requires_grad for key, parameter in backbone.net.named_parameters()}
    keys = list(learns)
    assert keys.index(first) == keys.index(last) + 1
    assert [learns[key] for key in keys] == [key not in keys[: keys.index(first)] for key in keys]


def test_frozen_stages_keep_their_statistics_and_the_others_learn():
    backbone = Backbone(SMALL).train()
    backbone.freeze_stages(1)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    sum(level.square().mean() for level in backbone(images())).backward()
    learns = {key for key, parameter in backbone.named_parameters() if parameter.grad is not None}
    kept = {key.rpartition(".")[0] for key, p in backbone.named_parameters() if not p.requires_grad}
    assert learns
    assert kept
    assert learns == {key for key, parameter in backbone.named_parameters() if parameter.requires_grad}
    statistics = [key for key in before if key.endswith("running_mean")]
    changed = {key for key in statistics if not torch.equal(before[key], backbone.state_dict()[key])}
    assert changed == {key for key in statistics if key.rpartition(".")[0] not in kept}


def test_more_frozen_stages_than_the_network_has_are_an_error():
    with pytest.raises(InputError, match=r"--frozen-stages 5: .* has no feature map of stride 64"):
        Backbone(SMALL).freeze_stages(5)
