"""The C++ of the losses on ARM: compiled to NEON for aarch64 and run in an emulator."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import focaldet
from browser import missing

CSRC = Path(__file__).parents[2] / "csrc"
FLAGS = "-std=c++20 -O3 -Wall -Werror -fwrapv -fno-math-errno -fno-trapping-math -static"
SOURCES = ("sigmoid_blocks.cpp", "softmax_blocks.cpp", "half.cpp")
EXPONENTS = (0.0, 0.5, 1.0, 2.0, 3.0)
LOGITS, ROWS, CLASSES = 500, 32, 21


def tool(name: str, package: str) -> str:
    return shutil.which(name) or missing(f"{name}: apt-get install {package}")


def derived(loss, z: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and gradients in float64, by the plain formula."""
    wide = z.double().requires_grad_()
    value = loss(wide)
    return value.detach(), torch.autograd.grad(value.sum(), wide)[0]


def expected(z: Tensor, y: Tensor, rows: Tensor, labels: Tensor, positions: Tensor) -> list[Tensor]:
    found: list[Tensor] = []
    for e in EXPONENTS:
        for target in (torch.zeros_like(y), y):
            found += derived(lambda x, e=e, y=target: focaldet.sigmoid_focal_loss(x, y, None, e), z)
    for e in EXPONENTS:
        for target in (torch.zeros_like(y), y):
            found += derived(lambda x, e=e, y=target: focaldet.quality_focal_loss(x, y, beta=e), z)
    for e in EXPONENTS:
        for target in (torch.zeros_like(y), y):
            found += derived(lambda x, e=e, y=target: focaldet.varifocal_loss(x, y, alpha=1.0, gamma=e), z)
    for e in EXPONENTS:
        for target in (torch.zeros_like(y), y):
            found += derived(lambda x, e=e, y=target: focaldet.matchability_aware_loss(x, y, gamma=e), z)
    for e in EXPONENTS:
        for target in (torch.zeros_like(y), y):
            found += derived(lambda x, e=e, y=target: focaldet.iou_aware_bce_loss(x, y, alpha=1.0, gamma=e), z)
    for e in EXPONENTS:
        found += derived(lambda x, e=e: focaldet.softmax_focal_loss(x, labels, gamma=e, label_smoothing=0.1), rows)
    found += derived(lambda x: focaldet.distribution_focal_loss(x, positions), rows)
    found += derived(lambda x: focaldet.distillation_loss(x, rows.flip(0), temperature=2.0), rows)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not CSRC.exists(), reason="the C++ sources are not here")
def test_the_inner_loops_give_on_arm_what_the_formulas_give(tmp_path):
    compiler = tool("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu")
    emulator = tool("qemu-aarch64", "qemu-user")
    program = tmp_path / "blocks"
    sources = [str(Path(__file__).parent / "blocks.cpp"), *(str(CSRC / name) for name in SOURCES)]
    subprocess.run([compiler, *FLAGS.split(), f"-I{CSRC}", *sources, "-o", str(program)], check=True)
    generator = torch.Generator().manual_seed(0)
    z, y = 4 * torch.randn(LOGITS, generator=generator), torch.rand(LOGITS, generator=generator)
    z[:6] = torch.tensor([60.0, -60.0, 1e4, -1e4, 1e30, -1e30])
    y[6:200], y[200:300] = 0.0, 1.0
    rows = 3 * torch.randn(ROWS, CLASSES, generator=generator)
    rows[0], rows[1] = 0.0, torch.tensor([1e4] + [0.0] * (CLASSES - 1))
    labels = torch.randint(0, CLASSES, (ROWS,), generator=generator)
    positions = (CLASSES - 1) * torch.rand(ROWS, generator=generator)
    given = torch.cat([z, y, rows.reshape(-1), labels.float(), positions])
    run = subprocess.run([emulator, str(program)], input=given.numpy().tobytes(), capture_output=True, check=True)
    found = torch.from_numpy(np.frombuffer(run.stdout, np.float32).copy()).double()
    for true in expected(z, y, rows, labels, positions):
        torch.testing.assert_close(found[: true.numel()].reshape(true.shape), true, rtol=1e-5, atol=1e-6)
        found = found[true.numel() :]
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(found[:LOGITS], z.to(dtype).double())
        found = found[LOGITS:]
    assert len(found) == 0


@pytest.mark.slow
@pytest.mark.skipif(not CSRC.exists(), reason="the C++ sources are not here")
def test_every_source_compiles_for_arm(tmp_path):
    from torch.utils.cpp_extension import include_paths

    compiler = tool("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu")
    includes = [f"-I{path}" for path in include_paths()]
    flags = "-std=c++20 -Wall -fsyntax-only -DTORCH_TARGET_VERSION=0x020a000000000000".split()
    for source in sorted(CSRC.glob("*.cpp")):
        subprocess.run([compiler, *flags, *includes, str(source)], check=True)
