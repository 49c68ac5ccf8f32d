"""The kernels' operators, computed by the plain formulas of ``losses/``; each has the signature of its kernel."""
