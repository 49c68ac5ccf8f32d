"""The Triton kernels without a GPU: interpreted against float64, and compiled offline to see their memory traffic."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

TARGETS = [80, 90]


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


def ptx(kernel, types: dict[str, str], constants: dict[str, object], capability: int) -> str:
    from triton import compile as triton_compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    constants = {**{name: None for name in kernel.arg_names if name not in types}, **constants}
    source = ASTSource(kernel, signature, constexprs={(kernel.arg_names.index(n),): v for n, v in constants.items()})
    return triton_compile(source, target=GPUTarget("cuda", capability, 32)).asm["ptx"]


def traffic(text: str) -> dict[str, int]:
    """Bytes that one thread loads and stores, by the width of the elements (b16, b32, b64)."""
    counts: dict[str, int] = {}
    for kind, vector, bits in re.findall(r"(ld|st)\.global(?:\.[a-z0-9_:]+)*?(?:\.(v2|v4|v8))?\.[bfus](\d+)", text):
        key = f"{kind}{bits}"
        counts[key] = counts.get(key, 0) + int(vector[1:] if vector else 1)
    return counts


POINTERS = {
    "logits_ptr": "*fp32",
    "factor_ptr": "*fp32",
    "grad_factor_ptr": "*fp32",
    "loss_ptr": "*fp32",
    "grad_ptr": "*fp32",
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("capability", TARGETS)
@pytest.mark.parametrize("power", [2, 3])
def test_sigmoid_kernel_reads_each_logit_once_and_writes_each_derivative_once(capability, power):
    """1024 elements for 128 threads: 8 a thread, so 8 words of logits (and the factor) in, 8 of derivatives out."""
    from focaldet.kernels.triton_sigmoid import sigmoid_fwd_kernel

    numbers = {n: "i64" for n in ("total", "num_classes", "inner")}
    numbers |= {n: "fp32" for n in ("gamma", "alpha", "weight_0", "weight_1")}
    flags = {"KIND": 2, "POWER": power, "SPARSE": True, "HAS_QUALITY": False, "HAS_WEIGHT": False, "BLOCK": 1024}
    flags |= {"HAS_CLASS_ALPHA": False, "REDUCE": True, "HAS_GRAD": True}
    flags |= {f"weight_stride_{axis}": 0 for axis in "oci"}
    text = ptx(sigmoid_fwd_kernel, POINTERS | {"labels_ptr": "*i64"} | numbers, flags, capability)
    counts = traffic(text)
    assert counts["ld32"] == 8 + 1
    assert counts["ld64"] == 8  # labels
    assert counts["st32"] == 8 + 1  # and the program's sum
    no_grad = traffic(
        ptx(sigmoid_fwd_kernel, POINTERS | {"labels_ptr": "*i64"} | numbers, flags | {"HAS_GRAD": False}, capability)
    )
    assert no_grad["st32"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("capability", TARGETS)
def test_softmax_kernel_reads_each_logit_once_and_writes_each_derivative_once(capability):
    """32 rows of 32 columns for 128 threads: 8 logits a thread; labels are loaded in the layout of the rows."""
    from focaldet.kernels.triton_softmax import softmax_fwd_kernel

    numbers = {n: "i64" for n in ("rows", "num_classes", "inner", "ignore_index")}
    numbers |= {n: "fp32" for n in ("gamma", "smoothing")}
    flags = {"POWER": 2, "LABELS": True, "HAS_WEIGHT": False, "HAS_CLASS_ALPHA": False, "REDUCE": True}
    flags |= {"HAS_GRAD": True, "ROWS": 32, "COLUMNS": 32}
    counts = traffic(ptx(softmax_fwd_kernel, POINTERS | {"labels_ptr": "*i64"} | numbers, flags, capability))
    assert counts["ld32"] == 8 + 2
    assert counts["st32"] == 8 + 1


@pytest.mark.slow
@pytest.mark.parametrize("capability", TARGETS)
def test_giou_kernel_reads_each_box_once_and_writes_each_derivative_once(capability):
    """256 pairs for 128 threads: 2 pairs a thread, 4 sides each, of boxes and targets."""
    from focaldet.kernels.triton_giou import giou_fwd_kernel

    types = {
        "boxes_ptr": "*fp32",
        "targets_ptr": "*fp32",
        "factor_ptr": "*fp32",
        "grad_factor_ptr": "*fp32",
        "loss_ptr": "*fp32",
    }
    types |= {"grad_ptr": "*fp32", "pairs": "i64"}
    flags = {"HAS_WEIGHT": False, "REDUCE": True, "HAS_GRAD": True, "BLOCK": 256}
    counts = traffic(ptx(giou_fwd_kernel, types, flags, capability))
    assert counts["ld32"] == 2 * 4 * 2 + 2
    assert counts["st32"] == 2 * 4 + 1
