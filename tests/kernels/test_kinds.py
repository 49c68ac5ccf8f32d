"""A kind of sigmoid loss has one number in Python, in C++ and in Triton."""

import re
from pathlib import Path

import focaldet
from focaldet.functional.operators.sigmoid import KINDS

ROOT = Path(__file__).parents[2]


def test_kinds_have_the_same_numbers_in_the_cpp_kernels():
    header = (ROOT / "csrc" / "sigmoid_formulas.h").read_text()
    (names,) = re.findall(r"enum class Kind \{([^}]*)\}", header)
    kinds = [re.sub("(?<!^)([A-Z])", r"_\1", name.strip().removeprefix("k")).lower() for name in names.split(",")]
    assert tuple(kinds) == KINDS


def test_kinds_have_the_same_numbers_in_the_triton_kernels():
    source = (Path(focaldet.__file__).parent / "kernels" / "triton_sigmoid.py").read_text()
    numbers = dict(re.findall(r"^([A-Z_]+) = tl\.constexpr\((\d+)\)$", source, re.MULTILINE))
    assert numbers == {kind.upper(): str(number) for number, kind in enumerate(KINDS)}
