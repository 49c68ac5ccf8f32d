"""Train: from a folder of labelled photos to a run folder."""

import contextlib
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from focaldet.checks import InputError, split_names
from focaldet.data.batching import DetectionDataset, TrainingSampler, different_shapes
from focaldet.data.classes import with_classes
from focaldet.data.folder import read_folder
from focaldet.data.ignore import ignore_classes, ignored_regions
from focaldet.data.own_transform import load_transform
from focaldet.data.rare import photo_factors
from focaldet.data.records import DataFolder
from focaldet.data.verify import without_unreadable
from focaldet.data.windows import WindowDataset
from focaldet.engine.advice import PresetAdvice
from focaldet.engine.augment import closing, training_transform
from focaldet.engine.beginning import first_detector, with_chosen_weights
from focaldet.engine.budget import TimeBudget
from focaldet.engine.calibrate import calibrate_on_val
from focaldet.engine.callbacks import RunRecorder
from focaldet.engine.checkpoints import (
    WholeFiles,
    check_fits,
    check_free,
    holds_only_begun,
    is_begun,
    read_checkpoint,
)
from focaldet.engine.config import TrainConfig
from focaldet.engine.detect import WITHOUT_DETECTIONS
from focaldet.engine.detect_windows import photos_to_detect
from focaldet.engine.devices import describe_device, most_workers, trainer_devices
from focaldet.engine.evaluate import detect_split, write_evaluation
from focaldet.engine.hardware import algorithms, choose_precision, compile_network, largest_batch
from focaldet.engine.hub import local_run
from focaldet.engine.interruption import Interruption, Terminated, begin_worker
from focaldet.engine.loggers import check_loggers, close_loggers, make_loggers
from focaldet.engine.loss_options import INVERSE, write_out
from focaldet.engine.module import DetectionModule
from focaldet.engine.patience import Patience
from focaldet.engine.processes import is_first_process, lost_process_in_one_line
from focaldet.engine.progress import progress_display
from focaldet.engine.pyramid import with_levels
from focaldet.engine.quiet import quiet
from focaldet.engine.resume import check_fixed, is_finished
from focaldet.engine.skipped_steps import SkippedSteps
from focaldet.engine.spec import ModelSpec, with_room
from focaldet.engine.splits import record_splits, recorded_splits, trained_on, with_recorded_splits
from focaldet.engine.teacher import load_teacher
from focaldet.engine.training_photos import TrainingPhotos
from focaldet.engine.windows import photos_and_windows, with_object_sizes, with_tile
from focaldet.files import write_text
from focaldet.folders import alone_in, make_numbered
from focaldet.methods.targets import TargetCollate
from focaldet.models.batch_norm import synchronise_batch_norm
from focaldet.system.heap import keep_memory
from focaldet.system.progress import progress_bar


def _silence(line: str) -> None:
    """Print nothing: the ``say`` of all processes but the first."""


def train(
    config: TrainConfig,
    *,
    folder: DataFolder | None = None,
    callbacks: Sequence[L.Callback] = (),
    say: Callable[[str], None] = print,
) -> Path:
    """Train a detector on a folder of labelled photos.

    Args:
        config: all settings.
        folder: the photos, if they have already been read; runs of a comparison share their splits.
        callbacks: Lightning callbacks, called after the run's own.
        say: prints a line.

    Returns:
        The run folder, with ``model.safetensors``, ``model.json``, ``config.yaml``, ``metrics.jsonl``, ``last.ckpt``,
        and, from the validation split, ``evaluation.json``, ``truth.json``, ``predictions.json`` and, if it has enough
        objects, ``calibration.json``.

    Raises:
        InputError: the data, the configuration or the run folder cannot be used, another process is training into the
            folder, or a loss or a weight is not finite.
        Terminated: SIGTERM ended training; the run folder is complete.
    """
    if not is_first_process(config):
        return _train(config, folder, callbacks, _silence)
    if config.out is None:
        return _train(config, folder, callbacks, say)  # fit makes and locks the folder after all checks
    with alone_in(Path(config.out), "train"):
        return _train(config, folder, callbacks, say)


def _train(
    config: TrainConfig, folder: DataFolder | None, callbacks: Sequence[L.Callback], say: Callable[[str], None]
) -> Path:
    config = _check_out(config, say)
    trainer_devices(config.device, config.devices, config.method)
    check_loggers(config.logger)
    if config.transform is not None:
        load_transform(config.transform)
    checkpoint = read_checkpoint(_last(config)) if config.resume else {}
    if folder is None:
        with progress_bar("reading headers") as progress:
            folder = read_folder(config.data, seed=config.seed, progress=progress)
    if config.resume:  # added photos would change the automatic splits
        folder = with_recorded_splits(folder, recorded_splits(Path(str(config.out)), folder))
    if config.verify:
        folder = without_unreadable(folder, say, windows=config.tile is not None)
    folder = ignore_classes(folder, split_names(config.ignore or ""))
    changed: list[str] = []
    if class_names := checkpoint.get("callbacks", {}).get("RunRecorder", {}).get("class_names"):
        # Classes that the run does not know would be trained as background.
        folder, changed = with_classes(folder, class_names, ignore_others=True)
    say(f"{folder.description}; {folder.split_origin}")
    for line in changed:
        say(line)
    for line in (*folder.notes, folder.fault_summary()):
        if line:
            say(line)
    if regions := ignored_regions(folder, "train"):
        say(regions)
    if config.weights is not None:
        recorded = recorded_splits(local_run(config.weights), folder)
        if warning := trained_on(folder.splits.get("val", ()), recorded):
            say(f"val split and --weights {config.weights}: {warning}")
    if not folder.splits.get("train"):
        raise InputError(f"{config.data}: no photo in the train split")
    if config.patience and not folder.splits.get("val"):
        raise InputError(f"--patience: {config.data} has no val split, on which AP could be measured")
    config = with_tile(with_levels(config, folder, say), folder, say)
    if config.alpha == INVERSE:
        config = replace(config, alpha=write_out(folder.splits["train"], folder.class_names))
        say(f"alpha by class: {config.alpha}")
    config = with_chosen_weights(config, say)  # config.yaml says which
    begun = replace(config, pretrained=False) if config.resume else config  # the checkpoint contains the weights
    spec, net, method = first_detector(begun, folder.class_names, say=say)
    spec = with_object_sizes(with_room(spec, config, folder.splits["train"], say), folder.splits["train"])
    if config.devices * config.nodes > 1:
        synchronise_batch_norm(net)
    net = net.to(memory_format=torch.channels_last)
    if config.batch == "auto":
        config = replace(config, batch=largest_batch(net, method, config, offset=spec.offset))
        say(f"batch {config.batch}: as many images as fit into the GPU's memory")
    teacher = load_teacher(config.teacher, spec, method, parts=config.accumulate)
    module = DetectionModule(net, method, config, offset=spec.offset, teacher=teacher)
    if config.compile:
        compile_network(net)
    if config.resume:
        check_fits(checkpoint, _last(config), module)
    say_once = _without_repeated_photos(say)
    ended: Terminated | None = None
    if config.resume and is_finished(config, checkpoint):
        run = Path(str(config.out))
        say(f"{run} is finished; to train it longer, resume with a larger --epochs or --minutes")
    else:
        try:
            run = fit(config, folder, spec, module, callbacks=callbacks, say=say_once)
        except Terminated as end:
            run, ended = end.run, end
    if is_first_process(config) and folder.splits.get("val"):
        detected = detect_split(run, folder, "val", device=config.device, say=say_once)
        write_evaluation(run, detected, say=say_once)
        calibrate_on_val(run, folder, detected, say_once)
    if ended is not None:
        raise ended
    return run


def fit(
    config: TrainConfig,
    folder: DataFolder,
    spec: ModelSpec,
    module: DetectionModule,
    *,
    callbacks: Sequence[L.Callback] = (),
    say: Callable[[str], None],
) -> Path:
    """Train a given network: ``train`` without reading the photos, building the network and the final evaluation.

    Args:
        folder: the photos.
        spec: description of the network, for ``model.json`` and for measuring AP.
        module: network, method and settings.
        callbacks: see ``train``.
        say: prints a line.

    Returns:
        The run folder, with all files of ``train`` except the evaluation's.

    Raises:
        Terminated: SIGTERM ended training; the run folder is complete.
    """
    run = _make_run_folder(config)  # all checks have passed
    in_windows, val_photos = spec.tile is not None, folder.splits.get("val")
    val = photos_to_detect(val_photos, in_windows, spec.transform) if val_photos else None
    clock = module.budget
    recorder = RunRecorder(run, spec, val, every=config.val_every, clock=clock, say=say)
    checkpoint = ModelCheckpoint(  # after each epoch; save_last with save_top_k=0 would save once, at the end
        dirpath=run, filename="last", save_top_k=1, enable_version_counter=False, save_on_train_epoch_end=True
    )
    own = [
        clock,
        SkippedSteps(say),
        recorder,
        Patience(config.patience, recorder, say),
        PresetAdvice(config, say),
        checkpoint,
        progress_display(clock, say),
    ]
    shapes = None if config.tile else different_shapes(folder.splits["train"], config.size)
    trainer = _trainer(config, run, [*own, *callbacks], one_size=shapes is None)
    if trainer.strategy.root_device.type == "cpu":
        keep_memory()
    if trainer.is_global_zero:
        write_text(run / "config.yaml", replace(config, resume=False).to_yaml())  # repeats the run from the start
        record_splits(run, folder, resumed=config.resume)
    say(
        f"training {config.method} on {photos_and_windows(config, folder.splits['train'])}, {config.backbone}, "
        f"{config.size} px, {trainer.precision}, on {describe_device(trainer.strategy.root_device)}, into {run}"
    )
    alone = alone_in(run, "train") if config.out is None and is_first_process(config) else contextlib.nullcontext()
    with alone, Interruption(run, clock, say) as interruption, quiet(), lost_process_in_one_line(config):
        loader = _loader(config, folder, trainer, module.collate(), clock, shapes)
        trainer.callbacks += [TrainingPhotos(loader, say), interruption]  # type: ignore[attr-defined]
        trainer.fit(
            module,
            loader,
            ckpt_path=str(_last(config)) if config.resume else None,
            weights_only=True,
        )
    close_loggers(trainer.loggers)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # a script may train again in this process
    if trainer.is_global_zero:
        if not (run / "model.json").exists():
            recorder.measure(module)
        say(_unlearned(recorder))
        if config.profile:
            say(module.clock.table())
    if interruption.signum == signal.SIGTERM:
        raise Terminated(recorder.run)
    return recorder.run


def _loader(
    config: TrainConfig,
    folder: DataFolder,
    trainer: L.Trainer,
    targets: TargetCollate,
    clock: TimeBudget,
    shapes: NDArray[np.float64] | None,
) -> "DataLoader[Any]":
    transform, records = training_transform(config, folder.num_classes), folder.splits["train"]
    if config.tile is None:
        dataset = DetectionDataset(records, transform, seed=config.seed, processes=config.devices)
    else:
        dataset = WindowDataset(
            records, transform, share=config.tile_objects, seed=config.seed, processes=config.devices
        )
    workers = config.workers
    if workers < 0:
        # While a GPU computes, photos are prepared, even if they are already decoded.
        idle = dataset.cached and trainer.strategy.root_device.type == "cpu"
        workers = 0 if idle else most_workers(config.devices)
    factors = photo_factors(dataset.records, folder.num_classes, config.repeat)
    sampler = TrainingSampler(
        len(dataset),
        batch_size=config.images_per_step,
        seed=config.seed,
        num_replicas=trainer.world_size,
        rank=trainer.global_rank,
        factors=None if factors is None else dataset.each_sample(factors),
        shapes=shapes,
        mix=lambda epochs: not closing(config, clock, epochs),
    )
    return DataLoader(
        dataset,
        batch_size=config.images_per_step,
        sampler=sampler,
        collate_fn=targets,
        num_workers=workers,
        pin_memory=trainer.strategy.root_device.type == "cuda",
        worker_init_fn=begin_worker,
        persistent_workers=workers > 0,
    )


def _trainer(config: TrainConfig, run: Path, callbacks: list[Any], *, one_size: bool) -> L.Trainer:
    with quiet():
        return L.Trainer(
            **trainer_devices(config.device, config.devices, config.method),
            num_nodes=config.nodes,
            strategy=_processes() if config.devices * config.nodes > 1 else "auto",
            precision=choose_precision(config),  # type: ignore[arg-type]
            max_epochs=config.epochs if config.minutes is None else -1,
            use_distributed_sampler=False,
            callbacks=callbacks,
            plugins=[WholeFiles()],
            logger=make_loggers(config, run) if is_first_process(config) else False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **algorithms(config, one_size=one_size),
        )


def _processes() -> DDPStrategy:
    # The timeout covers measuring AP, while the other processes wait. Synchronised batch norms keep buffers equal.
    return DDPStrategy(timeout=timedelta(hours=6), forward_sync_buffers=False)


def _last(config: TrainConfig) -> Path:
    """The checkpoint that a resumed run continues from."""
    return Path(str(config.out), "last.ckpt")


def _without_repeated_photos(say: Callable[[str], None]) -> Callable[[str], None]:
    """A ``say`` that reports each unreadable photo only once."""
    named: set[str] = set()

    def say_once(line: str) -> None:
        if line not in named:
            say(line)
        if line.endswith(WITHOUT_DETECTIONS):
            named.add(line)

    return say_once


def _check_out(config: TrainConfig, say: Callable[[str], None]) -> TrainConfig:
    """Check the run folder. Returns the configuration, without ``resume`` if there is no checkpoint yet.

    Raises:
        InputError: the folder holds something else, or a resumed run would change an option that cannot change.
    """
    if config.out is None:
        return config
    run = Path(config.out)
    if config.resume:
        check_fixed(config)
        if _last(config).exists():
            return config
        if not is_begun(run):
            other = f"; start a new run from its weights with --weights {run}" if (run / "model.json").exists() else ""
            raise InputError(f"--resume: {_last(config)} does not exist; there is nothing to continue{other}")
    elif not holds_only_begun(run):
        if is_first_process(config):
            check_free(run, ", or continue it with --resume")
        return config
    say(f"{run} was stopped before its first checkpoint: starting again")
    return replace(config, resume=False)


def _make_run_folder(config: TrainConfig) -> Path:
    if not is_first_process(config):
        return Path(config.out or "runs")  # until the first process broadcasts its choice
    if config.out is None:
        return make_numbered(Path("runs") / f"{Path(config.data).resolve().name}-{config.method}")
    run = Path(config.out)
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {run}: cannot be created ({error.strerror})") from error
    return run


def _unlearned(recorder: RunRecorder) -> str:
    if recorder.unmatched:
        text = (
            f"{recorder.unmatched:,} of {recorder.objects:,} objects matched no location in the last epoch: too small "
            "for the finest stride, or covered by another object"
        )
    else:
        text = f"all {recorder.objects:,} objects matched a location in the last epoch"
    if recorder.beyond_reach:
        text += (
            f"; {recorder.beyond_reach:,} had a side beyond the last bin of their level (num_bins - 1 strides): use "
            "more --num-bins or a smaller --size"
        )
    return text
