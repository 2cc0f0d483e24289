"""The only place where cancellation is handled."""

from __future__ import annotations

from math import factorial
from typing import Any

import array_api_compat.numpy
import numpy as np
from array_api_compat import array_namespace

Array = Any

SWITCH = 0.375
"""Below this ``|x|`` a series serves, above it ``exp(x) - 1 - x``, which loses no more than 3 bits there."""
# What n terms neglect is 2 * SWITCH**n / (n+2)! of the leading one: 1e-17 at n = 13, 1e-8 at n = 7.
_TERMS = {64: 13, 32: 7}
PIECE = 16_384


def namespace(x: Array) -> Any:
    """The array-API namespace of an array; NumPy's without the search, which would cost as much as a small formula."""
    return array_api_compat.numpy if type(x) is np.ndarray else array_namespace(x)


def _series(x: Array, terms: int) -> Array:
    """``exp(x) - 1 - x`` for ``|x| < SWITCH``: ``x^2/2! + x^3/3! + ...``, summed from the small end."""
    total = x * (1 / factorial(terms + 1)) + 1 / factorial(terms)
    for k in range(terms - 1, 1, -1):
        total = total * x + 1 / factorial(k)
    return total * x * x


def _series_in_place(x: np.ndarray) -> np.ndarray:
    """The same for NumPy, in pieces that fit the cache and with one buffer: a temporary a step would cost more than the sum."""
    terms = _TERMS[64]
    result = np.empty_like(x)
    for start in range(0, x.size, PIECE):
        piece, total = x[start : start + PIECE], result[start : start + PIECE]
        np.multiply(piece, 1 / factorial(terms + 1), out=total)
        for k in range(terms, 1, -1):
            total += 1 / factorial(k)
            total *= piece
        total *= piece
    return result


def _numpy_expm1_and_gap(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Each element goes by its own size alone; which of the two is done for all and which is mended is a matter of speed.
    is_far = np.abs(x) >= SWITCH
    far = np.flatnonzero(is_far)
    if 2 * far.size <= x.size:
        gap = _series_in_place(x)
        excess = gap + x
        if far.size:
            x_far = x.take(far)
            excess_far = np.exp(x_far) - 1.0
            excess.put(far, excess_far)
            gap.put(far, excess_far - x_far)
        return excess, gap
    excess = np.exp(x)
    excess -= 1.0
    gap = excess - x
    near = np.flatnonzero(~is_far)
    x_near = x.take(near)
    gap_near = _series_in_place(x_near)
    gap.put(near, gap_near)
    excess.put(near, gap_near + x_near)
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
    if type(x) is np.ndarray and x.dtype == np.float64 and x.ndim:
        with np.errstate(over="ignore", invalid="ignore"):
            excess, gap = _numpy_expm1_and_gap(x.ravel())
            return excess.reshape(x.shape), gap.reshape(x.shape)
    xp = namespace(x)
    small = xp.abs(x) < SWITCH
    # Each branch sees only arguments it is good for, or its gradient would be NaN where the other one is taken.
    near = xp.where(small, x, xp.zeros_like(x))
    far = xp.where(small, xp.ones_like(x), x)
    gap_near = _series(near, _TERMS[32 if xp.finfo(x.dtype).bits == 32 else 64])
    excess_far = xp.exp(far) - 1.0  # not expm1: its gradient, result + 1, loses r where r is small
    return xp.where(small, near + gap_near, excess_far), xp.where(small, gap_near, excess_far - far)
