# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# Triton gives the arguments of its kernels their types when it compiles them.
"""Arithmetic that the Triton kernels share. All of it is float32."""

import triton
import triton.language as tl

BACKGROUND = tl.constexpr(-1)
IGNORED = tl.constexpr(-2)
TINY = tl.constexpr(1.2e-38)
"""Smaller numbers have fewer digits in float32, and their inverse overflows."""


@triton.jit
def log1p_unit(u):
    """log(1 + u) = u + u² R(u) for u in [0, 1], to 5e-8: ``log`` alone is approximate where 1 + u is near 1."""
    r = 5.364739059e-3 * u - 3.006545132e-2
    r = r * u + 7.920398216e-2
    r = r * u - 1.375375565e-1
    r = r * u + 1.915363319e-1
    r = r * u - 2.485715821e-1
    r = r * u + 3.332132196e-1
    r = r * u - 4.999964794e-1
    return r * u * u + u


@triton.jit
def exp_excess(x):
    """exp(x) - 1 - x = x² R(x) for ``|x| <= 1``, to 2e-7 of its value, also near 0."""
    r = 2.496081470e-5 * x + 2.032548509e-4
    r = r * x + 1.389133511e-3
    r = r * x + 8.330930024e-3
    r = r * x + 4.166651517e-2
    r = r * x + 1.666669548e-1
    r = r * x + 5.000000000e-1
    return r * x * x


@triton.jit
def power(base, exponent, POWER: tl.constexpr):
    """base ** exponent for base >= 0, 0 at 0; POWER is 0, 1 or 2 for these exponents, and 3 for any other."""
    if POWER == 0:
        result = base * 0 + 1
    elif POWER == 1:
        result = base
    elif POWER == 2:
        result = base * base
    else:
        result = tl.where(base == 0, 0.0, tl.exp(exponent * tl.log(base)))
    return result


@triton.jit
def factor_of(scale, normalizer_ptr):
    """scale / normalizer, computed on the device so that the host does not wait."""
    factor = scale
    if normalizer_ptr is not None:
        factor = scale / tl.load(normalizer_ptr).to(tl.float32)
    return factor


def power_of(exponent: float) -> int:
    """The POWER of an exponent."""
    return int(exponent) if exponent in (0, 1, 2) else 3
