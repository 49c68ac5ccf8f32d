"""How an exported model is computed: by onnxruntime's CPU kernels, or by another execution provider of its wheel."""

import contextlib
import json
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from focaldet.checks import InputError, check_range, near_name, one_line

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

CPU = "CPUExecutionProvider"

_KEPT = 1000
"""Size of OpenVINO's cache of compiled layers, with one entry per layer and photo size. With its default of 5,000, the
memory of a server would keep growing by 5 MB per size."""


@dataclass(frozen=True)
class Provider:
    """One of onnxruntime's execution providers.

    Args:
        title: name in a message.
        name: name in onnxruntime.
        wheel: package that contains it.
        needs: what else the package needs.
        options: options for onnxruntime.
    """

    title: str
    name: str
    wheel: str
    needs: str = ""
    options: dict[str, str] = field(default_factory=dict)


PROVIDERS = {
    "cpu": Provider("the CPU", CPU, "onnxruntime"),
    "cuda": Provider("CUDA", "CUDAExecutionProvider", "onnxruntime-gpu", "an NVIDIA GPU with CUDA and cuDNN"),
    "tensorrt": Provider(
        "TensorRT", "TensorrtExecutionProvider", "onnxruntime-gpu", "an NVIDIA GPU with CUDA, cuDNN and TensorRT"
    ),
    "coreml": Provider("CoreML", "CoreMLExecutionProvider", "onnxruntime", "macOS", {"ModelFormat": "MLProgram"}),
    "directml": Provider("DirectML", "DmlExecutionProvider", "onnxruntime-directml", "Windows"),
    "openvino": Provider("OpenVINO", "OpenVINOExecutionProvider", "onnxruntime-openvino"),
}
"""Values of ``--provider``."""

AUTO = ("cuda", "directml", "openvino")
"""Providers that ``auto`` tries in turn: those whose wheels are installed for their sake. Others are left out: TensorRT
builds a program for each photo size, which takes minutes; CoreML is in every wheel for macOS and computes in
float16."""


def onnx_session(data: bytes, *, threads: int | None = None, folder: Path | None = None) -> "InferenceSession":
    """An onnxruntime session that computes an ONNX file on the CPU.

    Args:
        data: content of the file. Because it is loaded from memory, onnxruntime does not open external weights that an
            untrusted model may name, unless ``folder`` is given.
        threads: see ``OnnxDetector.load``.
        folder: folder of the external weights, from ``external_folder``.

    Raises:
        InputError: the file is broken.
    """
    import onnxruntime

    options = _session_options(folder)
    if threads is not None:
        check_range("threads", threads, 1)
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(data, options, providers=[CPU])
    except Exception as error:  # each kind of damage raises another class
        raise InputError(
            f"onnxruntime {onnxruntime.__version__} cannot read it ({reason(error)}); it is damaged, not an ONNX "
            "file, or made for a newer onnxruntime"
        ) from error


def provider_session(data: bytes, provider: str, *, folder: Path | None = None) -> "InferenceSession | None":
    """A session that computes a file by another provider. ``onnx_session`` must be able to read the file.

    Args:
        provider: one of ``PROVIDERS``; ``auto``: the first of ``AUTO`` that onnxruntime has and that can run the file.

    Returns:
        ``None`` for ``cpu``, and for ``auto`` if no other provider can.

    Raises:
        InputError: the provider does not exist, onnxruntime lacks it, or it cannot run the file.
    """
    if provider == "auto":
        return _first_that_starts(data, folder)
    if provider not in PROVIDERS:
        raise InputError(f"--provider {provider}: unknown; {near_name(provider, ('auto', *PROVIDERS))}")
    return None if provider == "cpu" else _started(data, PROVIDERS[provider], folder)


def _first_that_starts(data: bytes, folder: Path | None) -> "InferenceSession | None":
    import onnxruntime

    there = onnxruntime.get_available_providers()
    for provider in (PROVIDERS[name] for name in AUTO):
        if provider.name in there:
            onnxruntime.set_default_logger_severity(4)  # a wheel for GPUs on a machine without one is not an error
            with contextlib.suppress(InputError):
                return _started(data, provider, folder)
            onnxruntime.set_default_logger_severity(2)
    return None


def _started(data: bytes, provider: Provider, folder: Path | None) -> "InferenceSession":
    import onnxruntime

    if provider.name not in onnxruntime.get_available_providers():
        raise InputError(
            f"this onnxruntime ({onnxruntime.__version__}) lacks {provider.title}; {_how_to_get(provider)}"
        )
    if provider.wheel == "onnxruntime-gpu" and hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(None):  # it prints what it cannot find; the session may find it elsewhere
            onnxruntime.preload_dlls()  # CUDA and cuDNN as pip installs them
    chosen = (provider.name, _openvino_options() if provider.title == "OpenVINO" else provider.options)
    try:
        # Otherwise onnxruntime prints the error and uses the CPU.
        session = onnxruntime.InferenceSession(data, _session_options(folder), providers=[chosen], enable_fallback=0)
        started = provider.name in session.get_providers()  # onnxruntime drops one that fails to start
        if started:
            image = session.get_inputs()[0]
            kind = np.float32 if image.type == "tensor(float)" else np.uint8
            session.run(None, {image.name: np.zeros((1, 64, 64, 3), kind)})
    except Exception as error:
        raise InputError(f"{provider.title} cannot run it ({reason(error)}); use --provider cpu") from error
    if not started:
        needs = f" it needs {provider.needs};" if provider.needs else ""
        raise InputError(f"{provider.title} fails to start;{needs} use --provider cpu, or reinstall {provider.wheel}")
    return session


def _how_to_get(provider: Provider) -> str:
    if provider.wheel == "onnxruntime":
        return f"its wheel for {provider.needs} has it"
    on = f" on {provider.needs}" if provider.needs else ""
    there = {distribution.name for distribution in distributions()} & {known.wheel for known in PROVIDERS.values()}
    return f"replace it{on}: pip uninstall --yes {' '.join(sorted(there))}, then pip install {provider.wheel}"


def provider_title(session: "InferenceSession") -> str | None:
    """The provider that computes most of a session's model; ``None``: onnxruntime's own CPU kernels."""
    first = session.get_providers()[0]
    return next((known.title for known in PROVIDERS.values() if known.name == first != CPU), None)


def _openvino_options() -> dict[str, str]:
    # Without support by the processor, OpenVINO emulates bfloat16, which takes four times as long as float32.
    precision = "bf16" if _multiplies_bfloat16() else "f32"
    cpu = {"INFERENCE_PRECISION_HINT": precision, "CPU_RUNTIME_CACHE_CAPACITY": str(_KEPT)}
    return {"device_type": "CPU", "load_config": json.dumps({"CPU": cpu})}


def _multiplies_bfloat16() -> bool:
    """Whether the processor supports bfloat16 products, according to Linux."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _session_options(folder: Path | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return options


def reason(error: Exception) -> str:
    """onnxruntime's message without error code and source location."""
    text = one_line(error)
    return text.split(" : ", 3)[-1] if text.startswith("[ONNXRuntimeError]") else text
