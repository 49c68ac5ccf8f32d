"""``focaldet import``: make a run folder from a checkpoint of another library."""

from collections.abc import Callable
from pathlib import Path

from focaldet.checks import InputError, check_finite_weights
from focaldet.engine.checkpoints import check_free
from focaldet.engine.spec import save_model
from focaldet.files import read_text
from focaldet.folders import check_out, make_numbered
from focaldet.importing.checkpoint import Checkpoint, read_checkpoint
from focaldet.importing.fitting import Import, fit
from focaldet.importing.mmdet import is_mmdet, read_mmdet
from focaldet.importing.torchvision_models import is_torchvision, read_torchvision

EXPECTED = "expected RetinaNet or FCOS from torchvision, or RetinaNet, FCOS, ATSS, GFL or GFLv2 from mmdetection"


def import_checkpoint(
    file: Path,
    out: Path | None = None,
    *,
    class_names: Path | None = None,
    config: Path | None = None,
    batch_norm_eps: float | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Make a run from a published checkpoint, for ``predict``, ``eval`` and ``Detector.load``.

    Args:
        file: torch checkpoint or safetensors file.
        out: run folder; ``None``: a new one in ``runs``.
        class_names: text file with one class name per line.
        config: complete config of an mmdetection checkpoint that does not include one.
        batch_norm_eps: ε with which the batch norms were trained, if it is not their library's default.
        say: prints a line.

    Returns:
        The run folder.

    Raises:
        InputError: the file is damaged, would execute code, or holds another network.
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
    run = make_numbered(Path("runs") / file.stem) if out is None else out  # all checks have passed
    save_model(run, source.spec, net)
    for note in source.notes:
        say(note)
    spec = source.spec
    say(f"{file}: {source.architecture}, {spec.backbone}, {len(spec.class_names)} classes; saved as run {run}")
    return run


def read_class_names(file: Path) -> tuple[str, ...]:
    """Read class names from a text file with one name per line, in the order of the file.

    Raises:
        InputError: the file cannot be read, is empty, or contains a name twice.
    """
    lines = read_text(file).splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    twice = [name for name in names if names.count(name) > 1]
    if twice or not names:
        raise InputError(
            f"--class-names {file}: expected one name per line; found {twice[0] + ' twice' if twice else 'none'}"
        )
    return names


def _understand(
    checkpoint: Checkpoint, class_names: tuple[str, ...] | None, config: str | None, batch_norm_eps: float | None
) -> Import:
    if is_torchvision(checkpoint.weights):
        if config is not None:
            raise InputError("--config is for mmdetection; this file is torchvision's")
        return read_torchvision(checkpoint, class_names, batch_norm_eps)
    if is_mmdet(checkpoint.weights):
        if batch_norm_eps is not None:
            raise InputError("--batch-norm-eps is for torchvision's frozen batch norms; this file is mmdetection's")
        return read_mmdet(checkpoint, class_names, config)
    first = next(iter(checkpoint.weights))
    raise InputError(f"not a supported network; {EXPECTED}; its first tensor is {first!r}")
