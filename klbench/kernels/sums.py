"""Sums over a tile of logits, float32, compiled by Numba.

Each loop is written so that it becomes vector instructions: one type of number throughout, no
calls, no branches but choices between two values that are both computed. Sums may be taken in any
order; elsewhere rounding is as written.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types

from klbench.kernels.words import IN, ROW, F, compiled

SHIFTED = F(4.0)
"""The difference of the largest logits from which it is subtracted before logits are compared,
to keep the order exact.
"""
ZERO, ONE = F(0.0), F(1.0)
UNDERFLOW = F(-87.0)
"""Below it exp is 0 here; its smallest normal number is close."""
PER_LN2 = F(1.0 / math.log(2.0))
LN2 = F(math.log(2.0))
"""To 2e-9, and its product with the exponent is not rounded before it is subtracted."""
ROUND = F(1.5 * 2.0**23)
"""A sum with it is rounded to an integer, which then stands in the last bits."""
MANTISSA = np.int32(23)
# Near-minimax, by mpmath.chebyfit: (exp(x) - 1) / x for |x| < ln(2) / 2, so that exp is right to
# 1.5e-7; (exp(x) - 1 - x) / x^2 for |x| < 1 to 5e-8. Highest power first.
E0, E1, E2, E3 = F(0.008363179), F(0.041875686), F(0.16666577), F(0.49999372)
G0, G1, G2, G3 = F(2.5288435e-5), F(2.0329021e-4), F(0.0013886448), F(0.0083308862)
G4, G5, G6 = F(0.041666697), F(0.16666697), F(0.5)
ALIKE = F(1.0)
"""A difference of logits below which the second exponential is a polynomial of the difference."""
DISTINCT = 1.0 / 32.0
"""A divergence above this share of both sums keeps its digits as the difference of the sums."""
EXACT = ("contract",)
SUMS = ("reassoc", "contract", "nsz")


@compiled((types.float32,), *EXACT)
def _power(v: float) -> Any:  # pragma: no cover - compiled
    """``exp(v)`` for v from ``UNDERFLOW`` to little above 0, to ``2e-7 + 3e-9 |v|``.

    Of NaN any number: who calls it has NaN in other sums.
    """
    rounded = F(v * PER_LN2 + ROUND)
    r = v - (rounded - ROUND) * LN2
    p = F(((((E0 * r + E1) * r + E2) * r + E3) * r + ONE) * r + ONE)
    # To the exponent: one addition where a multiplication would wait for others.
    return np.int32(p.view(np.int32) + (rounded.view(np.int32) << MANTISSA)).view(np.float32)


@compiled((types.float32,), *EXACT)
def exp(v: float) -> Any:  # pragma: no cover - compiled
    """The same, 0 for all that is less, and NaN for NaN."""
    value = _power(v) + (v - v)
    return ZERO if v < UNDERFLOW else value


@compiled((types.float32,), *EXACT)
def excess(g: float) -> Any:  # pragma: no cover - compiled
    """``exp(g) - 1 - g`` where ``|g|`` is below ``ALIKE``."""
    return ((((((G0 * g + G1) * g + G2) * g + G3) * g + G4) * g + G5) * g + G6) * (g * g)


@compiled((types.float32,) * 5, *EXACT)
def between(
    z: float, y: float, to_z: float, from_y: float, rest: float
) -> Any:  # pragma: no cover - compiled
    """``y - z`` less the three.

    Subtracting neighbours first is exact, so that small differences keep their digits.
    """
    return ((y - from_y) - (z + to_z)) - rest


@compiled((types.float32, types.float32))
def split(from_z: float, from_y: float) -> Any:  # pragma: no cover - compiled
    """``from_y - from_z`` as the three above, two of them 0.

    If it is large, then that of the larger logits.
    """
    s = from_y - from_z
    if not abs(s) > SHIFTED:
        return ZERO, ZERO, s
    return (ZERO, s, ZERO) if abs(from_y) >= abs(from_z) else (s, ZERO, ZERO)


@compiled((IN, types.float32, ROW), *EXACT)
def weights(x: np.ndarray, top: float, weight: np.ndarray) -> None:  # pragma: no cover - compiled
    """``exp(x - top)``.

    It and its sums are loops apart: as one they would need more numbers at hand than a processor
    has places for, and a sum that has to be put away in every turn takes twice the time of
    everything else.
    """
    for i in range(x.size):
        weight[i] = exp(x[i] - top)


@compiled((IN, types.float32, IN), *SUMS)
def _moments(x: np.ndarray, top: float, weight: np.ndarray) -> Any:  # pragma: no cover - compiled
    """The sums of ``weight`` and of ``(x - top) weight``."""
    total, tilted = ZERO, ZERO
    for i in range(x.size):
        total += weight[i]
        tilted += weight[i] * (x[i] - top)
    return np.float64(total), np.float64(tilted)


@compiled((IN, IN, IN, IN, types.float32, types.float32), *SUMS)
def _compare(
    z: np.ndarray,
    y: np.ndarray,
    weight_z: np.ndarray,
    weight_y: np.ndarray,
    from_z: float,
    from_y: float,
) -> Any:  # pragma: no cover - compiled
    """Return the sums of ``g e``, ``g f``, ``f - e - g e`` and ``e - f + g f`` for weights e and
    f, ``g = log(f / e)``.
    """
    qg, pg, gap_q, gap_p = ZERO, ZERO, ZERO, ZERO
    to_z, of_y, rest = split(from_z, from_y)
    for i in range(z.size):
        e, f = weight_z[i], weight_y[i]
        g = between(z[i], y[i], to_z, of_y, rest)
        gap, eg, fg, d = excess(g), e * g, f * g, f - e
        near = abs(g) < ALIKE
        qg += eg
        pg += fg
        gap_q += e * gap if near else d - eg
        gap_p += eg * (g + gap) - e * gap if near else fg - d
    return np.float64(qg), np.float64(pg), np.float64(gap_q), np.float64(gap_p)


@compiled((IN, IN, types.float32, types.float32, ROW, ROW, types.boolean), *SUMS)
def alike(
    z: np.ndarray,
    y: np.ndarray,
    from_z: float,
    from_y: float,
    of_z: np.ndarray,
    more: np.ndarray,
    keep: bool,
) -> Any:  # pragma: no cover - compiled
    """The sums of :func:`distinct` with one exponential, if no ``|g|`` is above ``ALIKE``, without
    the last.

    Where they are to be kept: the weights of z, and what those of y are more, too.
    """
    q, qa, qg, gap_q, gaps = ZERO, ZERO, ZERO, ZERO, ZERO
    to_z, of_y, rest = split(from_z, from_y)
    for i in range(z.size):
        a, g = z[i] - from_z, between(z[i], y[i], to_z, of_y, rest)
        e = _power(a)
        gap = excess(g)
        rise = e * (g + gap)
        if keep:
            of_z[i], more[i] = e, rise
        q += e
        qa += e * a
        qg += e * g
        gap_q += e * gap
        gaps += rise * g
    of_q, of_qg, of_gap = np.float64(q), np.float64(qg), np.float64(gap_q)
    more_p, both = of_qg + of_gap, np.float64(gaps)  # p - q, and the sum of both gaps
    sums = of_q, of_q + more_p, np.float64(qa), of_qg, of_qg + both, of_gap, both - of_gap
    return *sums, math.nan


@compiled((IN, IN, types.float32, types.float32, ROW, ROW, types.boolean), *SUMS)
def distinct(
    z: np.ndarray,
    y: np.ndarray,
    from_z: float,
    from_y: float,
    of_z: np.ndarray,
    of_y: np.ndarray,
    keep: bool,
) -> Any:  # pragma: no cover - compiled
    """The seven sums of :func:`forward`, with gaps as differences of sums, and both weights; if
    they are to be kept, the sum of ``f log f`` too.
    """
    q, p, qa, qg, pg, pb = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    for i in range(z.size):
        a, b = z[i] - from_z, y[i] - from_y
        e, f, g = _power(a), _power(b), b - a
        if keep:
            of_z[i], of_y[i] = e, f
            pb += f * b
        q += e
        p += f
        qa += e * a
        qg += e * g
        pg += f * g
    of_q, of_p, of_qg, of_pg = np.float64(q), np.float64(p), np.float64(qg), np.float64(pg)
    gaps = of_p - of_q - of_qg, of_q - of_p + of_pg
    return of_q, of_p, np.float64(qa), of_qg, of_pg, *gaps, np.float64(pb)


@compiled((IN, IN, types.float32, types.float32, ROW, ROW))
def careful(
    z: np.ndarray, y: np.ndarray, from_z: float, from_y: float, e: np.ndarray, f: np.ndarray
) -> Any:  # pragma: no cover - compiled
    """The sums of :func:`distinct`, for any numbers, by way of the weights e and f."""
    weights(z, from_z, e)
    weights(y, from_y, f)
    of_z, of_y = _moments(z, from_z, e), _moments(y, from_y, f)
    differ = _compare(z, y, e, f, from_z, from_y)
    return of_z[0], of_y[0], of_z[1], differ[0], differ[1], differ[2], differ[3], of_y[1]
