"""A step in parts has the gradient of the step in one piece."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_step_counts import batch_of, module_of, samples

from focaldet.checks import InputError
from focaldet.engine.config import TrainConfig
from focaldet.engine.hardware import MAX_IMAGES, compile_network, most_that_fit
from focaldet.engine.module import DetectionModule
from focaldet.engine.spec import METHODS
from focaldet.engine.train import train
from focaldet.methods.targets import TargetCollate


def frozen(name: str, accumulate: int) -> DetectionModule:
    """With batch norms that ignore the batch."""
    module = module_of(name)
    config = replace(module.config, freeze_norm=True, accumulate=accumulate)
    module = DetectionModule(module.net, module.method, config)
    module.on_train_epoch_start()
    return module


def gradients(module: DetectionModule, images: int) -> dict[str, torch.Tensor]:
    """After a step, by name."""
    chosen = [samples()[index] for index in (0, 2, 1, 0, 2)[:images]]  # parts with many objects, few and none
    batch = TargetCollate(module.method, module.net, module.offset)(chosen)
    loss = module.training_step(batch, 1)["loss"]
    if module.parts is None:
        loss.backward()
    else:
        module.parts.backward(loss, nullcontext)
    return {name: x.grad.clone() for name, x in module.net.named_parameters() if x.grad is not None}


@pytest.mark.parametrize(("images", "accumulate"), [(4, 2), (4, 4), (5, 2)])
@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_of_a_batch_in_parts_is_that_of_the_batch(name: str, images: int, accumulate: int) -> None:
    whole, parts = (gradients(frozen(name, count), images) for count in (1, accumulate))
    assert whole.keys() == parts.keys()
    assert len(whole) > 40
    largest = max(float(x.abs().max()) for x in whole.values())
    assert largest > 1e-3
    for key in whole:
        torch.testing.assert_close(parts[key], whole[key], rtol=1e-4, atol=1e-5 * largest, msg=key)


def test_the_mean_of_the_parts_own_gradients_would_be_another() -> None:
    """What the second pass of the network is for: parts differ in objects, so their normalisers do."""
    whole = gradients(frozen("gfl", 1), 4)
    mean = {key: torch.zeros_like(x) for key, x in whole.items()}
    for first in (0, 2):
        module = frozen("gfl", 1)
        chosen = [samples()[index] for index in (0, 2, 1, 0)[first : first + 2]]
        module.training_step(TargetCollate(module.method, module.net, 0.5)(chosen), 1)["loss"].backward()
        for key, x in module.net.named_parameters():
            if x.grad is not None:
                mean[key] += x.grad / 2
    assert max(float((mean[key] - x).norm() / x.norm().clamp(min=1e-6)) for key, x in whole.items()) > 0.02


def test_batch_norms_count_each_part_once() -> None:
    module = module_of("gfl")
    parts = DetectionModule(module.net, module.method, replace(module.config, accumulate=3))
    loss = parts.training_step(batch_of(parts), 1)["loss"]
    assert parts.parts is not None
    parts.parts.backward(loss, nullcontext)
    alone = module_of("gfl")
    for image in batch_of(alone).images.split(1):
        alone.net(image)
    buffers = dict(alone.net.named_buffers())
    counted = [name for name in buffers if name.endswith("num_batches_tracked")]
    assert {int(buffers[name]) for name in counted} == {3}
    for name, buffer in parts.net.named_buffers():
        torch.testing.assert_close(buffer, buffers[name])


@pytest.mark.slow
def test_a_run_in_parts_learns_as_the_run_in_one_piece(cells: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        data=str(cells),
        backbone="test_resnet",
        size=64,
        levels="p3-p7",
        channels=16,
        head_depth=1,
        epochs=1,
        device="cpu",
        val_every=1,
        freeze_norm=True,
    )
    runs = {
        "whole": replace(config, batch=4, out=str(tmp_path / "whole")),
        "parts": replace(config, batch=2, accumulate=2, out=str(tmp_path / "parts")),
    }
    weights = {}
    for name, of_run in runs.items():
        run = train(of_run, say=lambda _: None)
        weights[name] = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    assert weights["whole"].keys() == weights["parts"].keys()
    for key, value in weights["whole"].items():
        if value.is_floating_point():
            assert float((weights["parts"][key] - value).abs().max()) < 1e-2 * max(1, float(value.abs().max()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler
def test_a_compiled_network_has_the_same_gradient_and_the_same_names() -> None:
    eager, compiled = module_of("gfl"), module_of("gfl")
    compile_network(compiled.net, backend="aot_eager")  # traced and differentiated; C++ takes minutes
    assert compiled.net.state_dict().keys() == eager.net.state_dict().keys()
    for module in (eager, compiled):
        module.training_step(batch_of(module), 1)["loss"].backward()
    for (name, one), (_, other) in zip(eager.net.named_parameters(), compiled.net.named_parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-2, atol=1e-3, msg=name)


@pytest.mark.parametrize("most", [1, 2, 3, 7, 43, 200, 10 * MAX_IMAGES])
def test_the_largest_batch_that_fits_is_found_in_few_steps(most: int) -> None:
    asked = []

    def fits(images: int) -> bool:
        asked.append(images)
        return images <= most

    found = most_that_fit(fits)
    assert 0.8 * min(most, MAX_IMAGES) - 1 <= found <= min(most, MAX_IMAGES)
    assert len(asked) < 20


def test_no_batch_that_fits_is_told() -> None:
    with pytest.raises(InputError, match="not even one image fits"):
        most_that_fit(lambda _: False)


def test_what_cannot_be_is_refused(cells: Path) -> None:
    with pytest.raises(InputError, match="--batch auto: needs a CUDA GPU, and this run is on cpu; give a number"):
        train(TrainConfig(data=str(cells), batch="auto", device="cpu", backbone="test_resnet"), say=lambda _: None)
    with pytest.raises(InputError, match="accumulate: needs devices 1 and nodes 1"):
        TrainConfig(data="", accumulate=2, devices=2)
    with pytest.raises(InputError, match="batch: expected at least 1, got 0"):
        TrainConfig(data="", batch=0)
