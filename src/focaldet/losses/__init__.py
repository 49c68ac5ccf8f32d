"""The formulas, one file per loss: plain torch, one value per element, no reduction.

Each file has the loss and its closed-form derivative (``<name>_grad``), which the fused kernels implement and the
tests compare. `focaldet.functional` adds reduction, weights and sparse targets.
"""
