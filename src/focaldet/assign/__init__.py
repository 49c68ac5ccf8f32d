"""Which object each prediction site is to find: boxes in, assignment out, no gradients."""
