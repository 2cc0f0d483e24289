"""The only place where cancellation is handled."""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_numpy_array

Array = Any

SWITCH = 0.5
"""Below this ``|x|`` a series serves, above it ``exp(x) - 1 - x``, which loses fewer than 3 bits there."""
# The n-th neglected term is 2 * SWITCH**n / (n+2)! of the leading one: 6e-18 at n = 14, 2e-9 at n = 8.
_TERMS = {64: 14, 32: 8}


def _series(x: Array, terms: int) -> Array:
    """``exp(x) - 1 - x`` for ``|x| < SWITCH``: ``x^2/2! + x^3/3! + ...``, summed from the small end."""
    total = x * (1 / factorial(terms + 1)) + 1 / factorial(terms)
    for k in range(terms - 1, 1, -1):
        total = total * x + 1 / factorial(k)
    return total * x * x


def _series_in_place(x: np.ndarray) -> np.ndarray:
    """The same for NumPy, with one buffer: a fresh temporary per step would cost more than the arithmetic."""
    terms = _TERMS[64]
    total = x * (1 / factorial(terms + 1))
    for k in range(terms, 1, -1):
        total += 1 / factorial(k)
        total *= x
    total *= x
    return total


def _numpy_expm1_and_gap(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # exp costs a third of expm1 here, and exp(x) - 1 is as good beyond SWITCH; below it the series gives both.
    small = np.abs(x) < SWITCH
    count = np.count_nonzero(small)
    if count == x.size:
        gap = _series_in_place(x)
        return gap + x, gap
    excess = np.exp(x)
    excess -= 1.0
    gap = excess - x
    if count:
        near = x[small]
        gap_near = _series_in_place(near)
        gap[small] = gap_near
        excess[small] = gap_near + near
    return excess, gap


def expm1_and_gap(x: Array) -> tuple[Array, Array]:
    """``exp(x) - 1`` and ``exp(x) - 1 - x``, both without cancellation.

    Parameters
    ----------
    x
        Any shape, float32 or float64.

    Returns
    -------
    Two arrays of the shape and dtype of ``x``, each within 8 units in the last place, gradients included; the second is the
    term of k3 when ``x`` is a log-ratio. ``+inf`` in gives NaN in the second.
    """
    if is_numpy_array(x) and x.dtype == np.float64 and x.ndim:
        with np.errstate(over="ignore", invalid="ignore"):
            return _numpy_expm1_and_gap(x)
    xp = array_namespace(x)
    small = xp.abs(x) < SWITCH
    # Each branch sees only arguments it is good for, or its gradient would be NaN where the other one is taken.
    near = xp.where(small, x, xp.zeros_like(x))
    far = xp.where(small, xp.ones_like(x), x)
    gap_near = _series(near, _TERMS[64 if xp.finfo(x.dtype).bits == 64 else 32])
    excess_far = xp.exp(far) - 1.0  # not expm1: its gradient, result + 1, loses r where r is small
    return xp.where(small, near + gap_near, excess_far), xp.where(small, gap_near, excess_far - far)


