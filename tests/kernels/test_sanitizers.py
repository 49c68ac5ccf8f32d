"""The C++ under AddressSanitizer and UndefinedBehaviorSanitizer, driven by the fuzzers of the neighbouring tests."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from fused_cases import needs_cpu_kernels

import focaldet

CSRC = Path(__file__).parents[2] / "csrc"
FLAGS = "-std=c++20 -O1 -g1 -fPIC -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"


def library(name: str) -> str:
    return subprocess.run(
        ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.slow
@needs_cpu_kernels
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.skipif(not CSRC.exists(), reason="the C++ sources are not here")
def test_the_fuzzer_finds_no_bad_access_and_no_undefined_behaviour(tmp_path):
    from torch.utils.cpp_extension import include_paths

    if not Path(library("libasan.so")).is_absolute():
        pytest.skip("g++ has no AddressSanitizer")
    # A copy of the package whose kernels are the instrumented ones. No clones: the sanitizers do not know ifuncs.
    package = tmp_path / "focaldet"
    shutil.copytree(Path(focaldet.__file__).parent, package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    command = ["g++", *FLAGS.split(), "-DFOCALDET_NO_CLONES", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
    command += [f"-I{path}" for path in include_paths()]

    def compiled(source: Path) -> str:
        made = str(tmp_path / source.with_suffix(".o").name)
        subprocess.run([*command, "-c", str(source), "-o", made], check=True)
        return made

    with ThreadPoolExecutor(2) as two_at_a_time:
        objects = list(two_at_a_time.map(compiled, sorted(CSRC.glob("*.cpp"))))
    libraries = [f"-L{Path(torch.__file__).parent / 'lib'}", "-lc10", "-ltorch", "-ltorch_cpu"]
    link = ["g++", *FLAGS.split(), "-shared", *objects, *libraries, "-o", str(package / "kernels" / "_cpu.abi3.so")]
    subprocess.run(link, check=True)
    fuzz = "any_ or pyramid or out_of_range or written_over or torchvisions or just_the_limit or equal_scores"
    fuzz += " or derivatives or several_turns or tiles_outside or extreme or is_torchs or rejects"
    here = Path(__file__).parent
    names = ("test_fused_shapes.py", "test_tiles.py", "test_depthwise.py", "test_normalise.py", "../models/test_nms.py")
    files = [here / name for name in names]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", fuzz, *map(str, files)],
        env=os.environ
        | {
            "PYTHONPATH": str(tmp_path),
            "LD_PRELOAD": f"{library('libasan.so')} {library('libstdc++.so')}",
            "ASAN_OPTIONS": "detect_leaks=0",  # of Python and torch, not ours
            "UBSAN_OPTIONS": "print_stacktrace=1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, (run.stdout + run.stderr)[-4000:]
    assert "passed" in run.stdout
    assert "skipped" not in run.stdout
