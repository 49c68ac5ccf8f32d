"""The Triton kernels without a GPU: interpreted against float64, counted in machine code, and their launches noted."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton", reason="Triton is not installed")

import machine_code
from machine_code import CUOBJDUMP, Code
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from focaldet.kernels import triton_ops
from focaldet.kernels.triton_softmax import rows_of, tiles_of, warps_of

TARGETS = [80, 90, 100]
compiles = pytest.mark.skipif(not CUOBJDUMP.exists(), reason="Triton came without CUDA's tools")


@pytest.mark.slow
def test_interpreted_kernels_keep_the_error_budget():
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, str(here / "interpreted.py")],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert "cases agree" in run.stdout


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def check(code: Code) -> None:
    assert code.wide_divisions == 0
    assert code.spills == 0


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("capability", TARGETS)
@pytest.mark.parametrize("last", [False, True])
def test_sigmoid_kernel_reads_each_logit_once_and_writes_each_derivative_once(capability, last):
    """A thread has 4 logits in each round of its loop: so many words in, and as many out."""
    code = machine_code.sigmoid(capability, CLASSES_LAST=last)
    check(code)
    assert code.loop != code
    assert code.loop.count("LDG") == (8 if last else 4)  # channels last: and the label of each logit
    assert code.loop.count("STG") == 4
    assert code.traffic == {"ld32": 4 + 1, "ld64": 4, "st32": 4 + 1}  # and the normaliser, and the program's sum
    assert machine_code.sigmoid(capability, CLASSES_LAST=last, grads=None).traffic["st32"] == 1


@compiles
@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "bf16"},
        {"kind": 2, "quality": True, "POWER": 3},
        {"kind": 3, "POWER": 3, "CLASSES_LAST": True},
        {"kind": 4, "POWER": 3, "REDUCE": False, "dense": True},
    ],
    ids=str,
)
def test_sigmoid_kernels_of_every_kind_have_neither_divisions_nor_spills(changes):
    check(machine_code.sigmoid(**changes))


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("capability", TARGETS)
def test_a_row_of_17_bins_is_one_thread_s_and_read_and_written_once(capability):
    code = machine_code.softmax(capability, num_classes=17, target="positions")
    check(code)
    assert code.traffic == {"ld32": 17 + 2, "st32": 17 + 1}  # the position and the normaliser; the program's sum
    assert code.count("SHFL") <= 7  # of that sum alone


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("capability", TARGETS)
@pytest.mark.parametrize("num_classes", [16, 80, 8191, 8192])
def test_softmax_kernels_spill_no_register(capability, num_classes):
    code = machine_code.softmax(capability, num_classes=num_classes)
    check(code)
    widths = tiles_of(num_classes)
    a_thread = sum(-(-rows_of(widths) * width // (32 * warps_of(widths))) for width in widths)
    assert code.traffic["ld32"] == a_thread + 1  # and the normaliser


@compiles
@pytest.mark.slow
def test_distillation_reads_each_logit_of_the_teacher_once_and_spills_no_register():
    code = machine_code.softmax(num_classes=80, target="teacher")
    check(code)
    assert code.traffic == {"ld32": 2 * 20 + 1, "st32": 20 + 1}  # and the normaliser; the program's sum


@compiles
@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"POWER": 3, "SMOOTHED": True, "class_alpha": True}, {"dtype": "bf16"}, {"CLASSES_LAST": False}],
    ids=str,
)
@pytest.mark.parametrize("num_classes", [8, 128, 512, 8191])
def test_softmax_kernels_of_every_kind_have_neither_divisions_nor_spills(num_classes, changes):
    check(machine_code.softmax(num_classes=num_classes, **changes))


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("capability", TARGETS)
def test_giou_kernel_reads_each_box_once_and_writes_each_derivative_once(capability):
    """256 pairs for 128 threads: 2 pairs a thread, each box in one load of 128 bits."""
    code = machine_code.giou(capability)
    check(code)
    assert code.traffic == {"ld32": 2 * 4 * 2 + 1, "st32": 2 * 4 + 1}
    assert code.count("LDG") == 2 * 2 + 1
    assert code.count("STG") == 2 + 1


@compiles
@pytest.mark.slow
def test_kernels_around_the_losses_have_neither_divisions_nor_spills():
    check(machine_code.sums())
    check(machine_code.multiplied())


def test_no_lane_is_idle_for_17_bins_and_few_are_for_any_other_number():
    assert sum(tiles_of(17)) == 17
    assert rows_of(tiles_of(17)) == 32 * warps_of(tiles_of(17))
    for num_classes in range(1, 8193):
        widths = tiles_of(num_classes)
        assert all(width & (width - 1) == 0 for width in widths)
        assert num_classes <= sum(widths) < num_classes * (17 / 16 if num_classes <= 512 else 4 / 3)
        assert rows_of(widths) * widths[0] <= 16 * 32 * warps_of(widths)


class Launches:
    """Notes what would be launched on a GPU: kernels of Triton, and PyTorch's operators that are more than memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kernels: list[tuple[str, Any]] = []
        self.operators: list[str] = []
        backend = make_backend(GPUTarget("cuda", 90, 32))

        def note(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
            bind = create_function_from_signature(kernel.signature, kernel.params, backend)
            self.kernels.append((kernel.fn.__name__, bind(*args, **options)[1]))

        monkeypatch.setattr(JITFunction, "run", note)

    def of(self, run: Callable[[], object]) -> list[str]:
        """The names of the kernels; then ``specialized`` is what Triton compiles anew for."""
        self.kernels.clear()
        noted = self

        class Note(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                name = func.overloadpacket.__name__
                if name not in {"empty", "empty_like", "new_empty", "detach", "view", "alias"}:
                    noted.operators.append(name)
                return func(*args, **(kwargs or {}))

        with Note():
            run()
        return [name for name, _ in self.kernels]

    @property
    def specialized(self) -> list[Any]:
        return [specialization for _, specialization in self.kernels]


@pytest.fixture
def launches(monkeypatch):
    return Launches(monkeypatch)


def pyramid(height: int, width: int, last: bool, batch: int = 2) -> tuple[list[Tensor], Tensor]:
    """Maps of 9 anchors and 80 classes in either memory format, which nobody writes or reads, and their labels."""
    memory_format = torch.channels_last if last else torch.contiguous_format
    sizes = [(-(-height // stride), -(-width // stride)) for stride in (8, 16, 32, 64, 128)]
    maps = [torch.empty(batch, 9 * 80, h, w, memory_format=memory_format) for h, w in sizes]
    return maps, torch.zeros(batch, 9 * sum(h * w for h, w in sizes), dtype=torch.int64)


def sigmoid_args(normalizer: Tensor) -> tuple[Any, ...]:
    """What comes after the labels: focal loss, summed, with a gradient."""
    return None, None, None, None, normalizer, None, 1, 2.0, 0.25, 1.0, True, True


@pytest.mark.parametrize("last", [False, True])
def test_a_pyramid_is_one_launch_and_its_sum_another(launches, last):
    maps, labels = pyramid(800, 1088, last)
    factor = torch.tensor(3.0)
    names = launches.of(lambda: triton_ops.pyramid_loss(maps, labels, *sigmoid_args(factor)))
    assert names == ["sigmoid_kernel", "sum_kernel"]
    names = launches.of(lambda: triton_ops.multiply(maps, factor))
    assert names == ["multiply_kernel"]
    assert launches.operators == []


@pytest.mark.parametrize("last", [False, True])
def test_no_kernel_is_compiled_anew_for_another_size_of_photo(launches, last):
    keys = []
    for height, width, batch in ((800, 1088, 2), (640, 640, 16), (801, 1333, 1), (128, 128, 1)):
        maps, labels = pyramid(height, width, last, batch)
        launches.of(lambda maps=maps, labels=labels: triton_ops.pyramid_loss(maps, labels, *sigmoid_args(labels[0, 0])))
        keys.append(launches.specialized)
        launches.of(lambda maps=maps: triton_ops.multiply(maps, torch.tensor(2.0)))
        keys[-1] += launches.specialized
    assert all(key == keys[0] for key in keys)


def test_no_kernel_is_compiled_anew_for_another_number_of_rows(launches):
    keys = []
    for rows in (1, 7, 16, 4096, 100_001):
        bins, weight, scale = torch.empty(rows, 17, 1), torch.empty(rows, 1), torch.tensor(3.0)
        labels, boxes = torch.zeros(rows, 1, dtype=torch.int64), torch.empty(rows, 4)
        focal, ends = (None, scale, None, 2.0, 0.0, 1.0, -100, 1.0, True, True), (scale, None, 1.0, True, True)
        runs = {
            "sigmoid_loss": (bins, labels, *sigmoid_args(scale)),
            "softmax_loss": (bins, labels, None, None, weight, *focal),
            "paired_box_loss": (boxes, boxes.clone(), weight[:, 0], *ends[:2], 0, *ends[2:]),
        }
        found = []
        for op, args in runs.items():
            assert launches.of(lambda op=op, args=args: triton_ops.loss_and_grad(op, *args))[1:] == ["sum_kernel"]
            found += launches.specialized
        keys.append(found)
    assert launches.operators == []
    assert all(key == keys[0] for key in keys)


def test_dense_targets_without_weights_by_class_are_one_row_of_numbers(launches):
    """A vector of logits has its length for a number of classes; that must not be compiled in."""
    keys = []
    for size in (5, 16, 1000):
        z = torch.empty(1, size, 1)
        args = (None, None, torch.empty(1, size, 1), None, None, None, None, 0, 0.0, None, 1.0, True, True)
        launches.of(lambda z=z, args=args: triton_ops.loss_and_grad("sigmoid_loss", z, *args))
        keys.append(launches.specialized)
    assert all(key == keys[0] for key in keys)
