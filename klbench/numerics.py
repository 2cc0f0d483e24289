"""The only place where cancellation is handled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from klbench.types import Array

SWITCH = {64: 0.5, 32: 1.0}
"""By bits of the dtype.

Below this ``|x|`` a polynomial serves, above it ``exp(x) - 1 - x``, which loses 3 bits at most.

Three bits of what ``exp`` is off by, that is: half a unit in some of NumPy's builds, more in
others.
"""
# (exp(x) - 1 - x) / x^2 below the switch, highest power first; near-minimax, by mpmath.chebyfit(f,
# [-switch, switch], 12 or 8). Relative errors 1.6e-17 and 7e-9; Taylor's series would take two
# terms more.
_COEFFICIENTS = {
    64: (
        1.6116496514371548e-10,
        2.0962955815976076e-09,
        2.505194670972162e-08,
        2.7557076636642725e-07,
        2.755731943362024e-06,
        2.4801587616145414e-05,
        0.00019841269841146993,
        0.001388888888870455,
        0.00833333333333336,
        0.04166666666666706,
        0.16666666666666666,
        0.5,
    ),
    32: (
        2.8062802582276946e-06,
        2.535851224463976e-05,
        0.00019838101968683888,
        0.0013885396911807102,
        0.00833333967591706,
        0.04166673659523746,
        0.16666666646842135,
        0.49999999781421683,
    ),
}
REDUCED = (
    2.0921162027575472e-09,
    2.5114284550153316e-08,
    2.755725675881884e-07,
    2.7557231755822327e-06,
    2.4801587340023847e-05,
    0.00019841269895092592,
    0.0013888888888879236,
    0.008333333333319816,
    0.04166666666666667,
    0.16666666666666677,
    0.5,
)
"""The same for ``|x| <= 0.375``, one term shorter.

Compiled code takes powers of 2 out of ``exp(x)`` first.
"""
WORTH_COMPILING = 4_096
"""From this size NumPy's float64 arrays go through compiled code.

Several times as fast, once it is loaded, in a second.
"""


def namespace(x: Array) -> Any:
    """The array-API namespace of an array.

    NumPy's without the search, which would cost as much as a small formula.
    """
    return _of_numpy() if type(x) is np.ndarray else array_namespace(x)


@cache
def _of_numpy() -> Any:
    """Load it at its first use: it brings all of NumPy, ``f2py`` and the rest."""
    return array_namespace(np.empty(0))


def tempered(log_probs: np.ndarray, temperature: float) -> np.ndarray:
    """Log-probabilities over the last axis of the distribution whose logits are those of
    ``log_probs`` over a temperature.
    """
    if temperature == 1.0:
        return log_probs
    scaled = log_probs / temperature
    top = scaled.max(axis=-1, keepdims=True)
    result: np.ndarray = scaled - (
        top + np.log(np.sum(np.exp(scaled - top), axis=-1, keepdims=True))
    )
    return result


def times_exp(factor: Array, x: Array) -> Array:
    """``factor * exp(x)``, which overflows only where the product does.

    Half of the exponential at a time.
    """
    xp = namespace(x)
    return (factor * xp.exp(x / 2.0)) * xp.exp(
        x / 2.0
    )  # two of them, lest their gradients be added before they are halved


def replaced(value: Array, where: Array, function: Callable[[Array], Array], x: Array) -> Array:
    """``value``, which may be overwritten, but ``function(x)`` where ``where`` holds.

    It sees nothing else of ``x``.
    """
    xp = namespace(x)
    if not bool(xp.any(where)):
        return value
    if (
        isinstance(value, np.ndarray) and value.ndim
    ):  # few, as a rule: NumPy, which has no gradients to keep, computes only those
        value[where] = function(x[where])
        return value
    return xp.where(where, function(xp.where(where, x, xp.ones_like(x))), value)


def either(
    where: Array, function: Callable[[Array], Array], otherwise: Callable[[Array], Array], x: Array
) -> Array:
    """``function(x)`` where ``where`` holds, ``otherwise(x)`` elsewhere.

    Each sees nothing of the other's ``x``; 0 and 1 stand in for it.
    """
    xp = namespace(x)
    if isinstance(x, np.ndarray) and x.ndim:
        result, rest = np.empty_like(x), ~where
        result[where], result[rest] = function(x[where]), otherwise(x[rest])
        return result
    near, far = xp.where(where, x, xp.zeros_like(x)), xp.where(where, xp.ones_like(x), x)
    return xp.where(where, function(near), otherwise(far))


def overflow(x: Array) -> float:
    """The largest exponent whose exponential the dtype of ``x`` holds."""
    return math.log(float(namespace(x).finfo(x.dtype).max))


def polynomial(coefficients: Sequence[float], x: Array) -> Array:
    """The polynomial with two coefficients or more, highest power first, by Horner's rule."""
    if type(x) is np.ndarray and x.dtype == np.float64 and x.size >= WORTH_COMPILING:
        from klbench import compiled

        flat = x.ravel()
        out = np.empty_like(flat)
        compiled.polynomial(np.array(coefficients), flat, out)
        return out.reshape(x.shape)
    first, second, *rest = coefficients
    total = x * first + second
    for coefficient in rest:
        total = total * x + coefficient
    return total


def _series(x: Array, bits: int) -> Array:
    """``exp(x) - 1 - x`` for ``|x|`` below the switch."""
    return polynomial(_COEFFICIENTS[bits], x) * x * x


def _compiled_expm1_and_gap(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from klbench import compiled

    flat = x.ravel()
    excess, gap = np.empty_like(flat), np.empty_like(flat)
    compiled.expm1_and_gap(flat, REDUCED, excess, gap)
    return excess.reshape(x.shape), gap.reshape(x.shape)


def expm1_and_gap(x: Array) -> tuple[Array, Array]:
    """``exp(x) - 1`` and ``exp(x) - 1 - x``, both without cancellation.

    Parameters
    ----------
    x
        Any shape, float32 or float64.

    Returns ------- Two arrays of the shape and dtype of ``x``, each within 8 units in the last
    place, gradients included; the second is the term of k3 when ``x`` is a log-ratio. ``+inf`` in
    gives NaN in the second.
    """
    xp = namespace(x)
    if type(x) is np.ndarray:
        if x.dtype == np.float64 and x.size >= WORTH_COMPILING:
            return _compiled_expm1_and_gap(x)
        with np.errstate(over="ignore", invalid="ignore"):
            return _expm1_and_gap(x, xp)
    return _expm1_and_gap(x, xp)


def _expm1_and_gap(x: Array, xp: Any) -> tuple[Array, Array]:
    bits = 32 if xp.finfo(x.dtype).bits == 32 else 64
    small = xp.abs(x) < SWITCH[bits]
    # Each branch sees only arguments it is good for, or its gradient would be NaN where the other
    # one is taken.
    near = xp.where(small, x, xp.zeros_like(x))
    far = xp.where(small, xp.ones_like(x), x)
    gap_near = _series(near, bits)
    excess_far = xp.exp(far) - 1.0  # not expm1: its gradient, result + 1, loses r where r is small
    return xp.where(small, near + gap_near, excess_far), xp.where(small, gap_near, excess_far - far)
