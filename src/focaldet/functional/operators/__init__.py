"""The operators of the kernels, computed by the plain formulas of ``losses/``: each has the signature of its kernel."""
