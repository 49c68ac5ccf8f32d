"""Fused kernels: loss and derivative in one pass.

Each is one ``torch.library`` operator (`focaldet.kernels.ops`), implemented in C++ (``csrc/``) on the CPU and in Triton
on CUDA. `available` says which exist and why the others do not.
"""

from pathlib import Path

import torch

from focaldet.kernels import ops

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes that the kernels accept; they compute in float32."""


def _load_cpu() -> str | None:
    """Load the C++ kernels; return why that is not possible, or ``None``."""
    folder = Path(__file__).parent
    library = next(iter(sorted([*folder.glob("_cpu*.so"), *folder.glob("_cpu*.pyd")])), None)
    if library is None:
        return "the C++ kernels are not built: install torch and a C++20 compiler, then reinstall focaldet"
    try:
        torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    except OSError as error:
        return f"the C++ kernels cannot be loaded ({error}): reinstall focaldet with the torch that is installed"
    return None


def _load_cuda() -> str | None:
    """Register the Triton kernels; return why that is not possible, or ``None``."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    try:
        from focaldet.kernels import triton_ops
    except ImportError as error:
        return f"Triton is not installed ({error})"
    triton_ops.register(ops.LIBRARY)
    return None


_PROBLEMS = {"cpu": _load_cpu(), "cuda": _load_cuda()}


def why_not(op: str, device_type: str, dtype: torch.dtype) -> str | None:
    """Why no fused kernel of ``op`` runs for this device and dtype, or ``None`` when one does."""
    if op not in ops.NAMES:
        return f"there is no kernel of {op}"
    if dtype not in DTYPES:
        return f"the kernels take {', '.join(str(d).removeprefix('torch.') for d in DTYPES)}, not {dtype}"
    if device_type == "cpu":
        return _PROBLEMS["cpu"]
    if device_type == "cuda":
        return _PROBLEMS["cuda"]
    return f"there are no kernels for {device_type}"


def available() -> dict[str, str | None]:
    """Device type -> ``None`` when its fused kernels run, else the reason why the plain formulas run instead.

    >>> sorted(available())
    ['cpu', 'cuda']
    """
    return dict(_PROBLEMS)
