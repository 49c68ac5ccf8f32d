"""``train --teacher``: which detectors can teach which, the losses of a step, and traces of the teacher in the run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from power import train_until_power_is_lost
from safetensors.torch import load_file
from test_step_counts import samples

from focaldet.checks import InputError
from focaldet.data.batching import collate
from focaldet.engine.config import TrainConfig
from focaldet.engine.detector import Detector
from focaldet.engine.module import DetectionModule
from focaldet.engine.spec import ModelSpec, read_spec, save_model
from focaldet.engine.teacher import load_teacher
from focaldet.engine.train import train
from focaldet.methods.targets import TrainingBatch

SPEC = ModelSpec("gfl", ("a", "b"), "test_resnet", 128, 16, 1)


def saved(to: Path, spec: ModelSpec, seed: int = 1) -> Path:
    """A run folder of an untrained detector."""
    torch.manual_seed(seed)
    to.mkdir(parents=True)
    save_model(to, spec, spec.build(prior_prob=0.3)[0])
    return to


def module_of(teacher: Path | None, spec: ModelSpec = SPEC, **options: Any) -> DetectionModule:
    torch.manual_seed(0)
    net, method = spec.build(prior_prob=0.05)
    config = TrainConfig(data="", batch=3, epochs=1, teacher=teacher and str(teacher), **options)
    return DetectionModule(
        net, method, config, teacher=load_teacher(config.teacher, spec, method, parts=config.accumulate)
    )


def terms_of(module: DetectionModule, batch: TrainingBatch | None = None) -> dict[str, float]:
    module.training_step(module.collate()(samples()) if batch is None else batch, 0)
    return dict(module.terms.last)


@pytest.mark.parametrize("method", ["gfl", "gflv2", "tood", "rtmdet"])
def test_a_step_has_two_terms_more_and_the_others_are_the_same(method: str, tmp_path: Path) -> None:
    spec = replace(SPEC, method=method)
    teacher = saved(tmp_path / "teacher", replace(SPEC, channels=32, backbone="test_resnet"))
    alone, taught = terms_of(module_of(None, spec)), terms_of(module_of(teacher, spec))
    assert taught.keys() - alone.keys() == {"teacher_sides", "teacher_class"}
    assert {name: taught[name] for name in alone if name != "loss"} == {
        name: value for name, value in alone.items() if name != "loss"
    }
    assert min(taught["teacher_sides"], taught["teacher_class"]) > 0
    assert taught["loss"] == pytest.approx(sum(value for name, value in taught.items() if name != "loss"))


def test_a_batch_without_targets_and_one_in_parts_learn_the_same(tmp_path: Path) -> None:
    teacher = saved(tmp_path / "teacher", SPEC)
    whole = terms_of(module_of(teacher))
    plain = terms_of(module_of(teacher), TrainingBatch(*collate(samples())))
    assert plain == whole
    in_parts = module_of(teacher)
    in_parts.teacher.parts = 2
    assert terms_of(in_parts) == pytest.approx(whole, rel=1e-4)


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    spec = replace(SPEC, class_names=("c", "b", "a"))
    teacher = saved(tmp_path / "teacher", spec)
    rows = load_file(teacher / "model.safetensors")
    net, _ = SPEC.build()
    state = {name: rows[name] for name in net.state_dict()}
    for part in ("weight", "bias"):
        state[f"head.class_logits.{part}"] = rows[f"head.class_logits.{part}"][[2, 1]]
    net.load_state_dict(state)
    (tmp_path / "same").mkdir()
    save_model(tmp_path / "same", SPEC, net)
    assert terms_of(module_of(teacher)) == pytest.approx(terms_of(module_of(tmp_path / "same")), rel=1e-5)


def test_the_teacher_is_no_part_of_what_is_trained_or_saved(tmp_path: Path) -> None:
    teacher = saved(tmp_path / "teacher", SPEC)
    alone, taught = module_of(None), module_of(teacher)
    taught.train()
    assert taught.state_dict().keys() == alone.state_dict().keys()
    assert len(list(taught.parameters())) == len(list(alone.parameters()))
    before = {name: value.clone() for name, value in taught.teacher.net.state_dict().items()}
    taught.training_step(taught.collate()(samples()), 0)["loss"].backward()
    assert not taught.teacher.net.training
    assert all(torch.equal(value, before[name]) for name, value in taught.teacher.net.state_dict().items())
    assert all(parameter.grad is None for parameter in taught.teacher.net.parameters())


def test_a_file_of_the_run_names_it_too(tmp_path: Path) -> None:
    teacher = saved(tmp_path / "teacher", SPEC)
    assert terms_of(module_of(teacher / "model.safetensors")) == terms_of(module_of(teacher))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "retinanet"}, "its method, retinanet, has no distributions of sides; a teacher needs gfl, gflv2"),
        ({"method_options": {"num_bins": 9}}, "--num-bins is 9 for the teacher, but 17 for the student"),
        ({"network": replace(SPEC.network, levels="p2-p6")}, "--levels is p2-p6 for the teacher, but p3-p7"),
        ({"class_names": ("a", "c")}, "it does not know b; its classes are a, c"),
    ],
)
def test_who_cannot_teach_is_refused_with_what_differs(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    teacher = saved(tmp_path / "teacher", replace(SPEC, **changes))
    with pytest.raises(InputError, match=f"--teacher {teacher}: {words}"):
        module_of(teacher)


def test_missing_and_wrong_files_and_a_student_without_distributions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run folder or model file"):
        module_of(tmp_path / "nothing")
    (tmp_path / "model.onnx").touch()
    with pytest.raises(InputError, match="an exported file has no logits"):
        module_of(tmp_path / "model.onnx")
    with pytest.raises(InputError, match="the student's method, fcos, has no distributions"):
        module_of(tmp_path, replace(SPEC, method="fcos"))


@pytest.mark.slow
def test_a_taught_run_resumes_to_the_same_bits_and_needs_no_teacher_afterwards(
    trained: Path, config: TrainConfig, again: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = again(teacher=str(trained), out=str(tmp_path / "whole"))
    config = replace(config, teacher=str(trained))
    train_until_power_is_lost(config, monkeypatch)
    run = train(replace(config, resume=True), say=lambda line: None)
    weights, others = load_file(whole / "model.safetensors"), load_file(run / "model.safetensors")
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    own = load_file(trained / "model.safetensors")
    assert own.keys() == weights.keys()
    assert not all(torch.equal(value, own[name]) for name, value in weights.items())  # it has learned from its teacher
    assert read_spec(run / "model.json").teacher == str(trained)
    Detector.load(run)
