"""``focaldet import``: a checkpoint of another code becomes a run folder."""

from collections.abc import Callable
from pathlib import Path

from focaldet.checks import InputError, check_finite_weights
from focaldet.engine.checkpoints import check_free
from focaldet.engine.spec import save_model
from focaldet.files import check_out, make_numbered, read_text
from focaldet.importing.checkpoint import Checkpoint, read_checkpoint
from focaldet.importing.fitting import Import, fit
from focaldet.importing.mmdet import is_mmdet, read_mmdet
from focaldet.importing.torchvision_models import is_torchvision, read_torchvision

EXPECTED = "expected RetinaNet or FCOS of torchvision, or RetinaNet, FCOS, ATSS, GFL or GFLv2 of mmdetection"


def import_checkpoint(
    file: Path,
    out: Path | None = None,
    *,
    class_names: Path | None = None,
    config: Path | None = None,
    batch_norm_eps: float | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Make a run of a published checkpoint, for ``predict``, ``eval`` and ``Detector.load``.

    Args:
        file: of torch or safetensors.
        out: the run folder; ``None``: a new one in ``runs``.
        class_names: a text file, a name a line.
        config: of a checkpoint of mmdetection that does not hold its own: the one text with everything in it.
        batch_norm_eps: what the batch norms were trained with, where it is not what their code has.
        say: prints a line for the person who waits.

    Raises:
        InputError: the file is broken, would run code, or holds another network.
    """
    if out is not None:
        check_free(out)
        check_out(out, "a run")
    if batch_norm_eps is not None and not 0 <= batch_norm_eps < 1:
        raise InputError(f"--batch-norm-eps: expected a number in [0, 1), got {batch_norm_eps}")
    names = None if class_names is None else read_class_names(class_names)
    text = None if config is None else read_text(config)
    checkpoint = read_checkpoint(file)
    try:
        source = _understand(checkpoint, names, text, batch_norm_eps)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    net, _ = source.spec.build()
    fit(net, source, file)
    check_finite_weights(file, net.state_dict())
    run = make_numbered(Path("runs") / file.stem) if out is None else out  # all that can be refused has been
    save_model(run, source.spec, net)
    for note in source.notes:
        say(note)
    spec = source.spec
    say(f"{file}: {source.architecture}, {spec.backbone}, {len(spec.class_names)} classes; now the run {run}")
    return run


def read_class_names(file: Path) -> tuple[str, ...]:
    """Names of classes from a text file, one a line, in the order of the file.

    Raises:
        InputError: it cannot be read, or names one twice.
    """
    lines = read_text(file).splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    twice = [name for name in names if names.count(name) > 1]
    if twice or not names:
        raise InputError(
            f"--class-names {file}: expected a name a line; found {twice[0] + ' twice' if twice else 'none'}"
        )
    return names


def _understand(
    checkpoint: Checkpoint, class_names: tuple[str, ...] | None, config: str | None, batch_norm_eps: float | None
) -> Import:
    if is_torchvision(checkpoint.weights):
        if config is not None:
            raise InputError("--config is of mmdetection; this file is torchvision's")
        return read_torchvision(checkpoint, class_names, batch_norm_eps)
    if is_mmdet(checkpoint.weights):
        if batch_norm_eps is not None:
            raise InputError("--batch-norm-eps is of torchvision's frozen batch norms; this file is mmdetection's")
        return read_mmdet(checkpoint, class_names, config)
    first = next(iter(checkpoint.weights))
    raise InputError(f"none of the networks that can be imported; {EXPECTED}; its first tensor is {first!r}")
