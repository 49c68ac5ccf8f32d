"""Fused kernels: loss and gradient in one pass."""

import torch


def why_not(op: str, device_type: str, dtype: torch.dtype) -> str | None:
    """Why no fused kernel of ``op`` runs for this device and dtype, or ``None`` when one does."""
    return f"no kernel of {op} for {device_type} and {dtype}"
