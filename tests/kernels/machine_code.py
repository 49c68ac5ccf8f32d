"""The Triton kernels' machine code for a GPU, compiled without one. ``python tests/kernels/machine_code.py``: a table.

Triton includes CUDA's assembler and disassembler.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from focaldet.kernels.triton_giou import BLOCK, giou_kernel
from focaldet.kernels.triton_parts import multiply_kernel, sum_kernel
from focaldet.kernels.triton_sigmoid import LANES, STEPS, sigmoid_kernel
from focaldet.kernels.triton_softmax import registers_of, rows_of, softmax_kernel, tiles_of, warps_of

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"

ISSUED = 132 * 4 * 32 * 1.755e9
"""Thread instructions per second on an H100 SXM: multiprocessors, schedulers, threads, clock."""

BANDWIDTH = 3.35e12
"""Memory bandwidth of an H100 SXM, bytes per second."""


@dataclass(frozen=True)
class Code:
    """A compiled kernel.

    Args:
        ptx: Triton's output.
        sass: instructions of the GPU, in order, with their addresses.
        registers: registers per thread.
        logits: elements per thread; in a loop, per round.
    """

    ptx: str
    sass: tuple[tuple[int, str], ...]
    registers: int
    logits: float

    def count(self, *names: str) -> int:
        """Number of instructions with one of these names."""
        return sum(text.split()[0].split(".")[0] in names for _, text in self.sass)

    @property
    def spills(self) -> int:
        """Number of accesses to spilled registers."""
        return self.count("LDL", "STL")

    @property
    def loop(self) -> "Code":
        """The code of the first loop only; all code if there is no loop."""
        for at, text in self.sass:
            target = re.match(r"BRA(?:\.\S+)? (?:\S+, )?0x([0-9a-f]+)", text)
            if target and int(target[1], 16) < at:
                return replace(self, sass=tuple(x for x in self.sass if int(target[1], 16) <= x[0] <= at))
        return self

    @property
    def traffic(self) -> dict[str, int]:
        """Loads and stores per thread, by bits: ``ld32``, ``st16``; a vector of four counts four times."""
        counts: dict[str, int] = {}
        access = r"(ld|st)\.global(?:\.[a-z0-9_:]+)*?(?:\.(v2|v4|v8))?\.[bfus](\d+)"
        for kind, vector, bits in re.findall(access, self.ptx):
            counts[kind + bits] = counts.get(kind + bits, 0) + int(vector[1:] if vector else 1)
        return counts

    @property
    def wide_divisions(self) -> int:
        """Number of divisions of 64-bit integers by non-constants; each becomes a call in machine code."""
        return len(re.findall(r"\b(?:div|rem)\.[su]64", self.ptx))


def compiled(
    kernel: Any,
    types: dict[str, Any],
    constants: dict[str, Any],
    logits: float,
    capability: int = 90,
    aligned: tuple[str, ...] = (),
    **options: int,
) -> Code:
    """Compile a kernel for arguments of these types; arguments without a type are constants, or none."""
    constants = {name: constants.get(name) for name in kernel.arg_names if name not in types}
    source = ASTSource(
        kernel,
        {name: types.get(name, "constexpr") for name in kernel.arg_names},
        {(kernel.arg_names.index(name),): value for name, value in constants.items()},
        {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(made.asm["cubin"])
        dump = [
            subprocess.run([CUOBJDUMP, option, file], capture_output=True, text=True, check=True).stdout
            for option in ("-sass", "-res-usage")
        ]
    sass = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][^;]*?)\s*;", dump[0])
    registers = re.search(r"REG:(\d+)", dump[1])
    assert registers
    return Code(
        made.asm["ptx"],
        tuple((int(at, 16), text) for at, text in sass if not text.startswith("NOP")),
        int(registers[1]),
        logits,
    )


def sigmoid(
    capability: int = 90,
    *,
    dtype: str = "fp32",
    kind: int = 1,
    quality: bool = False,
    dense: bool = False,
    **changes: Any,
) -> Code:
    """Focal loss of a pyramid, or another kind: γ 2, 80 classes, 9 anchors, sparse targets, five levels; dense, one."""
    levels = 1 if dense else 5
    numbers = {name: "i64" for name in ("num_sites", "weight_stride_b", "weight_stride_p", "weight_stride_c")}
    numbers |= {name: "fp32" for name in ("scale", "gamma", "alpha", "weight_0", "weight_1")} | {"blocks": "i32"}
    types = {"maps": (f"*{dtype}",) * levels, "grads": (f"*{dtype}",) * levels, "sizes": ("i32",) * levels}
    types |= {"normalizer_ptr": "*fp32", "loss_ptr": "*fp32"} | numbers
    types |= {"targets_ptr": "*fp32"} if dense else {"labels_ptr": "*i64"}
    types |= {"quality_ptr": "*fp32"} if quality else {}
    constants = {"KIND": kind, "POWER": 2, "NUM_CLASSES": 80, "NUM_ANCHORS": 9, "CLASSES_LAST": False}
    constants |= {"REDUCE": True, "LANES": LANES, "STEPS": STEPS} | changes
    types = {name: value for name, value in types.items() if name not in changes}
    return compiled(sigmoid_kernel, types, constants, LANES / 128, capability)


def softmax(
    capability: int = 90,
    *,
    num_classes: int,
    target: str = "labels",
    class_alpha: bool = False,
    dtype: str = "fp32",
    **changes: Any,
) -> Code:
    """Softmax focal loss of ``labels`` with γ 2, distribution focal loss of ``positions``, or distillation from a
    ``teacher``."""
    widths = tiles_of(num_classes)
    types = {name: "i64" for name in ("rows", "ignore_index")} | {"blocks": "i32"}
    types |= {name: "fp32" for name in ("scale", "gamma", "smoothing", "temperature")}
    types |= {f"{target}_ptr": "*i64" if target == "labels" else "*fp32"}
    types |= {"class_alpha_ptr": "*fp32"} if class_alpha else {}
    types |= {"logits_ptr": f"*{dtype}", "grad_ptr": f"*{dtype}", "normalizer_ptr": "*fp32", "loss_ptr": "*fp32"}
    constants = {
        "POWER": 2 if target == "labels" else 0,
        "SMOOTHED": False,
        "NUM_CLASSES": num_classes,
        "CLASSES_LAST": True,
    }
    constants |= {"REDUCE": True, "ROWS": rows_of(widths), "WIDTHS": widths}
    constants |= {"FIRSTS": tuple(accumulate(widths, initial=0))[:-1]} | changes
    warps = warps_of(widths)
    logits = rows_of(widths) * num_classes / (32 * warps)
    return compiled(softmax_kernel, types, constants, logits, capability, num_warps=warps, maxnreg=registers_of(warps))


def giou(capability: int = 90) -> Code:
    """GIoU loss; its "logits" are the sides of boxes."""
    types = {"boxes_ptr": "*fp32", "targets_ptr": "*fp32", "grad_ptr": "*fp32", "normalizer_ptr": "*fp32"}
    types |= {"loss_ptr": "*fp32", "pairs": "i64", "scale": "fp32"}
    aligned = ("boxes_ptr", "targets_ptr", "grad_ptr")
    constants = {"REDUCE": True, "BLOCK": BLOCK}
    return compiled(giou_kernel, types, constants, 4 * BLOCK / 128, capability, aligned=aligned)


def sums(capability: int = 90) -> Code:
    """The kernel that sums the programs' results."""
    types = {"sums_ptr": "*fp32", "normalizer_ptr": "*fp32", "loss_ptr": "*fp32", "count": "i32", "scale": "fp32"}
    return compiled(sum_kernel, types, {"BLOCK": 1024}, 8, capability)


def multiplied(capability: int = 90) -> Code:
    """The kernel that applies the factor of backward."""
    types = {"tensors": ("*fp32",) * 5, "sizes": ("i32",) * 5, "factor_ptr": "*fp32"}
    return compiled(multiply_kernel, types, {"BLOCK": 1024}, 8, capability)


MIX = {
    "float": ("FMUL", "FFMA", "FADD", "FSEL", "FSETP", "FMNMX", "FSET"),
    "exp, log, 1/x": ("MUFU",),
    "memory": ("LDG", "STG", "LDS", "STS", "STSM", "LDSM"),
    "other threads": ("SHFL", "BAR"),
}


def line(name: str, code: Code, size: int, extra: float) -> str:
    """A row of the table: instructions and bytes for each logit, and the bandwidth that they allow.

    Args:
        name: name of the case.
        code: the kernel.
        size: bytes per logit.
        extra: bytes read in addition to a logit and its derivative.
    """
    loop = code.loop
    rounds = STEPS if loop != code else 1
    instructions = (len(code.sass) + (rounds - 1) * len(loop.sass)) / (rounds * code.logits)
    moved = 2 * size + extra
    issued = ISSUED / instructions * moved
    bound = "memory" if issued > BANDWIDTH else "instructions"
    mix = " / ".join(f"{100 * loop.count(*names) / len(loop.sass):.0f}" for names in MIX.values())
    return (
        f"| {name} | {instructions:.0f} | {mix} | {code.registers} | {code.spills} | {code.wide_divisions} | "
        f"{moved:.1f} | {min(issued, BANDWIDTH) / 1e12:.1f}, {bound} |"
    )


def main() -> None:
    label = 8 / 80
    cases = [
        ("focal, 80 classes, float32", sigmoid(), 4, label),
        ("the same, channels last", sigmoid(CLASSES_LAST=True), 4, label),
        ("focal, 80 classes, bfloat16", sigmoid(dtype="bf16"), 2, label),
        ("the same, channels last", sigmoid(dtype="bf16", CLASSES_LAST=True), 2, label),
        ("quality focal, 80 classes, float32", sigmoid(kind=2, quality=True), 4, label + 4 / 80),
        ("distribution focal, 17 bins", softmax(num_classes=17, target="positions"), 4, 4 / 17),
        ("distillation, 17 bins", softmax(num_classes=17, target="teacher"), 4, 4),
        ("distillation, 80 classes", softmax(num_classes=80, target="teacher"), 4, 4),
        ("softmax focal, 21 classes", softmax(num_classes=21), 4, 8 / 21),
        ("softmax focal, 80 classes", softmax(num_classes=80), 4, 8 / 80),
        ("softmax focal, 1,203 classes", softmax(num_classes=1203), 4, 8 / 1203),
        ("softmax focal, 8,192 classes", softmax(num_classes=8192), 4, 8 / 8192),
        ("GIoU, of each side of a box", giou(), 4, 4),
    ]
    print(
        f"| kernel, sm_90 | instructions | % {' / '.join(MIX)} | registers | spills | divisions | bytes | TB/s, bound |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for case in cases:
        print(line(*case))


if __name__ == "__main__":
    main()
