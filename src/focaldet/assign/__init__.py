"""Which object each prediction location is to find: boxes in, assignment out, no gradients."""
