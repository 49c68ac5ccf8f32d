"""The losses of a configuration, from the option to the method and its memory."""

import pytest
import torch

from focaldet.checks import InputError
from focaldet.engine.config import TrainConfig
from focaldet.engine.module import DetectionModule
from focaldet.engine.spec import read_spec, spec_of
from focaldet.files import write_json
from focaldet.structures import SparseTargets

SMALL = {"backbone": "mobilenetv3_small_050", "channels": 8, "head_depth": 0}


def config_of(**options) -> TrainConfig:
    return TrainConfig(data="photos", **SMALL, **options)


@pytest.mark.parametrize("method", ["retinanet", "fcos", "atss", "gfl", "gflv2", "tood", "rtmdet"])
def test_losses_reach_the_method_and_model_json(method, tmp_path):
    config = config_of(method=method, class_loss="focal", box_loss="ciou", alpha="dog=.75,cat=.125")
    spec = spec_of(config, ("cat", "dog", "cow"))
    net, built = spec.build()
    assert (built.class_loss, built.box_loss, built.alpha) == ("focal", "ciou", (0.125, 0.75, 0.25))
    write_json(tmp_path / "model.json", spec.to_json(net.strides))
    again = read_spec(tmp_path / "model.json").build()[1]
    assert again == built


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": "dog"}, "alpha: expected a number in"),
        ({"alpha": "dog=2"}, "alpha: expected a number in"),
        ({"alpha": 1.5}, "alpha: expected a number in"),
        ({"alpha": "dog=.5", "class_loss": "varifocal"}, "only the focal loss has weights by class"),
        ({"box_loss": "smooth_l1"}, "box_loss: gfl has no deltas"),
        ({"box_loss": "diuo"}, "did you mean 'diou'"),
        ({"class_loss": "equalised_focal"}, "did you mean 'equalized_focal'"),
        ({"repeat": "2"}, "repeat: expected"),
    ],
)
def test_what_no_loss_takes_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        config_of(**options)


def test_a_name_that_is_no_class_is_refused():
    with pytest.raises(InputError, match="unknown class 'dgo'; did you mean 'dog'"):
        spec_of(config_of(class_loss="focal", method="gfl", alpha="dgo=.5"), ("cat", "dog"))


def test_inverse_is_written_out_before():
    with pytest.raises(InputError, match="alpha: inverse counts objects of training photos"):
        spec_of(config_of(class_loss="focal", alpha="inverse"), ("cat", "dog"))


@pytest.mark.parametrize("class_loss", ["equalized_focal", "equalized_quality"])
def test_the_memory_of_an_equalized_loss_is_in_checkpoints_and_goes_on_to_the_bit(class_loss):
    def module() -> DetectionModule:
        torch.manual_seed(0)
        config = config_of(class_loss=class_loss)
        net, method = spec_of(config, ("cat", "dog")).build()
        return DetectionModule(net, method, config)

    def step(own: DetectionModule, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        logits = [torch.randn(1, 2, 6, 6, generator=generator)]
        labels = torch.full((1, 36), -1)
        labels[0, seed] = 0
        from focaldet.methods.class_loss import class_loss as loss

        return loss(
            own.method,
            logits,
            SparseTargets(labels, (labels >= 0) * 0.5),
            normalizer=torch.tensor(1.0),
            inplace_grad=False,
        )

    first = module()
    assert tuple(first.state_dict()["balance.gradients"].shape) == (2, 2)
    for seed in range(3):
        step(first, seed)
    second = module()
    second.load_state_dict(first.state_dict())
    assert torch.equal(step(second, 4), step(first, 4))
    assert torch.equal(second.method.balance.gradients, first.method.balance.gradients)
    assert not torch.equal(step(module(), 4), step(second, 4))  # the memory matters
    with torch.no_grad():
        before = second.method.balance.gradients.clone()
        step(second, 5)
    assert torch.equal(second.method.balance.gradients, before)


def test_other_losses_add_nothing_to_checkpoints():
    config = config_of()
    net, method = spec_of(config, ("cat",)).build()
    assert not any("balance" in key for key in DetectionModule(net, method, config).state_dict())
