"""Build the C++ kernels if torch and a compiler are available, otherwise the pure package.

Everything else is in pyproject.toml. The kernels use only LibTorch's stable ABI: one build serves every torch from 2.10
on.
"""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

try:
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ImportError:
    BuildExtension, CppExtension = build_ext, None


def warn(reason: str) -> None:
    print(
        f"warning: focaldet is installed without its C++ kernels ({reason}); the plain formulas run instead. "
        "`focaldet doctor` tells what runs. To build them: install torch and a C++20 compiler, then "
        "pip install --no-build-isolation focaldet",
        file=sys.stderr,
    )


class OptionalBuild(BuildExtension):
    """A failed compilation leaves a warning and a working package."""

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            warn(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'the compile failed'}")
            self.extensions = []


def extensions() -> list:
    if CppExtension is None:
        warn("torch cannot be imported in the build environment")
        return []
    if sys.platform == "win32":  # MSVC; /fp:precise, its default, keeps NaN
        flags = ["/std:c++20", "/O2", "/DTORCH_TARGET_VERSION=0x020a000000000000"]
    else:
        flags = ["-std=c++20", "-O3", "-g0", "-fvisibility=hidden", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
        # Neither changes a value: no errno from math functions, no floating-point traps. Never -ffast-math: it hides
        # NaN.
        flags += ["-fno-math-errno", "-fno-trapping-math"]
    sources = sorted(str(path) for path in Path("csrc").glob("*.cpp"))
    return [
        CppExtension(
            "focaldet.kernels._cpu",
            sources,
            depends=sorted(str(path) for path in Path("csrc").glob("*.h")),
            extra_compile_args={"cxx": flags},
            py_limited_api=True,
        )
    ]


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": OptionalBuild},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
