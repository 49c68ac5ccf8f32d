"""The formulas, one file a loss: plain torch, one value per element, nothing reduced.

Each file has the loss and its closed-form derivative (``<name>_grad``), which the fused kernels implement and the
tests compare. Reduction, weights and sparse targets are the business of `focaldet.functional`.
"""
