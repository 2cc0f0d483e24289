"""Bregman gaps at 1 of the convex generators, ``f(r) - f(1) - f'(1)(r - 1)``, from draws.

Each is a function of the log-ratio without cancellation.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from klbench.numerics import (
    either,
    expm1_and_gap,
    namespace,
    overflow,
    polynomial,
    replaced,
    times_exp,
)
from klbench.types import Array, Draws


def kl_qp(draws: Draws) -> Array:
    """``r - 1 - log r``."""
    return draws.derived(expm1_and_gap)[1]


def kl_pq(draws: Draws) -> Array:
    """``r log r - (r - 1)``."""
    # e*l - gap, where neither loses more than a factor of 2 near 0, and a few bits out to -5.
    # Further out, where r*l is negligible beside l or e*l overflows, r(l - 1) + 1.
    log_ratio = draws.log_ratio
    xp = namespace(log_ratio)
    far = xp.abs(log_ratio) > 5.0
    if isinstance(log_ratio, np.ndarray) and log_ratio.ndim:
        excess, gap = draws.derived(expm1_and_gap)
    else:
        excess, gap = expm1_and_gap(xp.where(far, xp.zeros_like(log_ratio), log_ratio))
    with np.errstate(over="ignore", invalid="ignore"):
        return replaced(excess * log_ratio - gap, far, _kl_pq_far, log_ratio)


def _kl_pq_far(log_ratio: Array) -> Array:
    return namespace(log_ratio).exp(log_ratio) * (log_ratio - 1.0) + 1.0


CERTAIN = 45.0
"""The log-ratio from which ``1 / r``, and ``log r`` beside r, are less than rounding."""


JS_SERIES = [1.0 / (2 * k * (2 * k - 1)) for k in range(24, 0, -1)]


def js(draws: Draws) -> Array:
    """``(r log r - (1 + r) log((1 + r)/2)) / 2``."""
    # With h = |l|/2 and u = tanh h: (1 + r)/2 * ((1+u) log(1+u) + (1-u) log(1-u))/2, and the
    # bracket is sum u^2k / (2k (2k-1)) near 0, log 2 - log(1 + t) - 2 h t / (1 + t) with t =
    # exp(-2h) further out; beyond, r log(2)/2.
    log_ratio = draws.log_ratio
    xp = namespace(log_ratio)
    certain = log_ratio > CERTAIN
    inside = xp.where(certain, xp.zeros_like(log_ratio), log_ratio)
    half = xp.abs(inside) / 2.0

    def near(half: Array) -> Array:
        u = xp.tanh(half)
        squared = u * u
        return polynomial(JS_SERIES, squared) * squared

    def far(half: Array) -> Array:
        t = xp.exp(-2.0 * half)
        return math.log(2.0) - xp.log1p(t) - 2.0 * half * t / (1.0 + t)

    result = (0.5 + 0.5 * xp.exp(inside)) * either(half < 0.5, near, far, half)
    return replaced(result, certain, lambda x: times_exp(0.5 * math.log(2.0), x), log_ratio)


def hellinger(draws: Draws) -> Array:
    """``(sqrt(r) - 1)^2 / 2``."""
    root = expm1_and_gap(draws.log_ratio / 2.0)[0]
    return 0.5 * root * root


def chi2(draws: Draws) -> Array:
    """``(r - 1)^2``."""
    excess = draws.derived(expm1_and_gap)[0]
    return excess * excess


def alpha_family(draws: Draws, alpha: float) -> Array:
    """``(r^alpha - 1 - alpha (r - 1)) / (alpha (alpha - 1))``."""
    # Near 0 the series sum l^k/k! (1 + a + ... + a^(k-2)), k >= 2; beyond, the definition, whose
    # terms no longer cancel.
    log_ratio = draws.log_ratio
    xp = namespace(log_ratio)
    size = log_ratio * max(1.0, abs(alpha))
    small = xp.abs(size) < 1.0
    outer = xp.abs(size) > OUTER if alpha < 0.0 else size > OUTER

    def near(x: Array) -> Array:
        return polynomial(_alpha_series(alpha), x) * x * x

    def far(x: Array) -> Array:
        r = xp.exp(x)
        if 0.0 < alpha < 1.0:
            power = xp.exp(
                alpha * x
            )  # never the largest term, and with a gradient where r underflows
        elif alpha > 0.0:
            power = (
                r**alpha
            )  # not exp(alpha * x): the rounding of that product would be magnified by its size
        else:
            power = xp.exp(-x) ** -alpha  # of 1/r, lest its gradient overflow before its value does
        return (power - 1.0 - alpha * (r - 1.0)) / (alpha * (alpha - 1.0))

    inside = xp.where(outer, xp.ones_like(log_ratio), log_ratio)
    return replaced(
        either(small, near, far, inside), outer, lambda x: _alpha_outer(x, alpha), log_ratio
    )


@cache
def _alpha_series(alpha: float) -> list[float]:
    """The coefficients of ``l^k``, k from 20 down to 2."""
    return [sum(alpha**j for j in range(k - 1)) / math.factorial(k) for k in range(20, 1, -1)]


OUTER = 8.0
"""Beyond this ``max(1, |alpha|) log r`` the alpha family is made of its largest term, which
alone may overflow.
"""


def _alpha_outer(log_ratio: Array, alpha: float) -> Array:
    """The gap as ``a r^alpha + b r + c``.

    R times the rest where r is large, and its power in halves where that is.
    """
    xp = namespace(log_ratio)
    a, b, c = 1.0 / (alpha * (alpha - 1.0)), -1.0 / (alpha - 1.0), 1.0 / alpha
    one = xp.ones_like(log_ratio)
    # Beyond this the result is infinite, and so is its slope, which would be made of parts of which
    # one is 0.
    most = overflow(log_ratio)
    most = (
        min(most, (most + 1.0 - math.log(a)) / alpha)
        if alpha > 1.0
        else max(most, most + 1.0 - math.log(b))
    )
    infinite = log_ratio > most
    up = xp.where((log_ratio > 0.0) & ~infinite, log_ratio, one)
    if alpha > 1.0:
        rest = b + a * xp.exp(up) ** ((alpha - 1.0) / 2.0) * xp.exp(up) ** ((alpha - 1.0) / 2.0)
    else:
        decay = (1.0 - alpha) * up
        vanished = decay > CERTAIN
        rest = b + xp.where(vanished, 0.0 * one, a * xp.exp(-xp.where(vanished, one, decay)))
    result = times_exp(rest, up) + c
    if alpha < 0.0:
        down = xp.where(log_ratio < 0.0, log_ratio, -one)
        part = 2.0 ** math.floor(
            math.log2(-alpha / 2.0)
        )  # of the exponent, without rounding: a power from 1 to 2 is left

        def half() -> Array:
            return xp.exp(-part * down) ** (-alpha / 2.0 / part)

        result = xp.where(log_ratio < 0.0, (a * half()) * half() + (b * xp.exp(down) + c), result)
    return xp.where(infinite, xp.where(infinite, log_ratio, one) * math.inf, result)
