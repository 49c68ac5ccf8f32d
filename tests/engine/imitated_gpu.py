"""A GPU imitated on the CPU: tensors claim another device, and reject what Apple's GPU rejects.

An operator with tensors on two devices is an error, and so is float64. Everything that the host waits for is recorded
with its place in the source. The values are real, so that the network trains and detects. It runs in a separate
process, because torch cannot forget a device.
"""

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from counting import LOOKS
from PIL import Image
from test_step_counts import batch_of, module_of, samples, spec_of
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

import focaldet
from focaldet.bench import losses
from focaldet.data.batching import DetectionDataset
from focaldet.data.records import ImageRecord
from focaldet.data.transforms import EvalTransform
from focaldet.engine.detect import detect_records
from focaldet.engine.detector import Detector
from focaldet.engine.probe import fault_of, take_step
from focaldet.engine.spec import METHODS
from focaldet.models import fused_norm
from focaldet.photos.images import read_photo

DEVICE = "imitated"

MOVES = {"_to_copy", "copy_", "_copy_from", "set_"}
"""Operators between two devices."""


class Backend(_DummyBackendModule):
    """The functions that torch requires of a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


class There(Tensor):
    """A tensor of the imitated GPU; ``here`` has its values."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> "There":
        there = Tensor._make_wrapper_subclass(
            cls, here.shape, here.stride(), here.storage_offset(), dtype=here.dtype, device=f"{DEVICE}:0"
        )
        there.here = here
        return there

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.tolist:  # torch does it without an operator
            note("tolist")
            return args[0].here.tolist()
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    def __repr__(self, **_: Any) -> str:
        return f"There({tuple(self.shape)}, {self.dtype})"


class Imitation(TorchDispatchMode):
    """Make new tensors on the device if requested."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


operators: set[str] = set()
"""Operators computed on the device, by their names in torch's native_functions.yaml."""

waits: list[str] = []
"""Waits of the host: the operator, and the function of focaldet that called it."""


def computed(func: Any, args: Any, kwargs: Any) -> Any:
    """The result of an operator, computed on the CPU, with its imitated device."""
    name = func.__name__.split(".")[0]
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = [x for x in tensors if isinstance(x, There)]
    if there:
        operators.add(str(func).removeprefix("aten.").removesuffix(".default"))
    if there and name not in MOVES:
        for x in tensors:
            if not isinstance(x, There) and x.ndim:
                raise RuntimeError(f"{name}: tensors of two devices, {tuple(x.shape)} is on the CPU")
    stays = bool(there)
    if (device := kwargs.get("device")) is not None:
        stays = torch.device(device).type == DEVICE
        kwargs = kwargs | {"device": torch.device("cpu")}
        if there and not stays:
            note(name)
    if name == "copy_":
        stays = isinstance(args[0], There)
        if there and not stays:
            note(name)
    if there and (name in LOOKS or (name in ("index", "index_put", "index_put_") and by_mask(args[1]))):
        note(name)
    plain = pytree.tree_map_only(There, lambda x: x.here, (args, kwargs))
    result = func(*plain[0], **plain[1])
    if not stays:
        return result
    same = {id(x.here): x for x in there}

    def placed(x: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            raise TypeError(f"{name}: Apple's GPU has no float64")
        return same[id(x)] if id(x) in same else There(x)

    return pytree.tree_map_only(Tensor, placed, result)


def by_mask(indices: Any) -> bool:
    return any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indices)


def note(name: str) -> None:
    """Record that the host waits."""
    package = Path(focaldet.__file__).parent
    frames = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(package)]
    if frames:  # otherwise the test itself reads it
        waits.append(f"{Path(frames[-1].filename).relative_to(package)} {frames[-1].name}: {name}")


@contextmanager
def imitation() -> Iterator[torch.device]:
    """The imitated GPU, while entered."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor makes it on the CPU, then moves it
    try:
        with Imitation():
            yield torch.device(DEVICE, 0)
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def refusals(device: torch.device) -> list[str]:
    """Its responses to forbidden operations."""
    there, answers = torch.ones(3, device=device), []
    for fault in (
        lambda: there + torch.ones(3),
        lambda: there[torch.tensor([0])],
        lambda: there.double(),
        lambda: torch.zeros(2, dtype=torch.float64, device=device),
    ):
        try:
            fault()
        except (RuntimeError, TypeError) as error:
            answers.append(str(error))
    return answers


def steps(name: str, device: torch.device) -> tuple[list[float], Detector]:
    """The losses of two steps, the first of which reads them, and the trained detector."""
    module = module_of(name)
    module.progress = 0.5
    module.net.to(device)
    module.average.module.to(device)
    batch = module.transfer_batch_to_device(batch_of(module), device, 0)
    optimizer = torch.optim.AdamW([{"params": made} for made in module.parameter_groups().values()], fused=True)
    losses = []
    waits.clear()
    for index in range(2):
        losses.append(take_step(module, batch, optimizer, index))
    values = [float(loss) for loss in losses]
    return values, Detector(spec_of(name), module.average_net, module.method, score_threshold=0.001)


def photos(folder: Path) -> DetectionDataset:
    """Three photos without labels, one of them of another shape."""
    records = []
    for index, sample in enumerate(samples()):
        file = folder / f"{index}.png"
        Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(file)
        height, width = sample.image.shape[1:]
        none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
        records.append(ImageRecord(file, file.name, index, width, height, *none))
    return DetectionDataset(records, EvalTransform(128))


def found_by(detector: Detector, dataset: DetectionDataset) -> list[Any]:
    """Detections in a batch of two, and in the evaluation of all photos."""
    (boxes,) = detector.detect([detector.prepare(read_photo(dataset.records[0].path))])
    results = detect_records(detector.net, detector.evaluation_postprocess(), dataset)
    return [boxes.boxes_xyxy.tolist(), [entry["bbox"] for entry in results]]


def run(name: str, folder: Path) -> dict[str, Any]:
    """Losses and boxes of a method on the device and on the CPU, and the waits."""
    dataset = photos(folder)
    with patch.object(fused_norm, "_pays", lambda *_: False):  # torch's operators on both, which round alike
        losses, own = steps(name, torch.device("cpu"))
    boxes = found_by(own, dataset)
    with imitation() as device:
        there, detector = steps(name, device)
        trained = list(waits)
        waits.clear()
        return {
            "losses": [there, losses],
            "boxes": [found_by(detector, dataset), boxes],
            "waits": trained,
            "waits in detecting": sorted(set(waits)),
            "fault of a trial": fault_of(device, name),
            "refusals": refusals(device),
            "operators": sorted(operators),
        }


def benchmarked() -> list[str]:
    """The comparisons of ``focaldet bench losses``, each run once."""

    def once(functions: dict[str, Callable[[], object]], **_: Any) -> dict[str, float]:
        for function in functions.values():
            function()
        return dict.fromkeys(functions, 1.0)

    losses.interleaved_ms, losses.RETINANET = once, (600, 4)
    with imitation() as device:
        return [row.work for row in losses.loss_rows(compiled=False, memory=False, device=device)]


if __name__ == "__main__":
    # Before the first backward pass, for which torch counts the devices.
    _setup_privateuseone_for_python_backend(DEVICE, Backend())
    out = Path(sys.argv[1])
    results = {name: run(name, out) for name in METHODS}
    (out / "results.json").write_text(json.dumps(results | {"benchmarked": benchmarked()}))
