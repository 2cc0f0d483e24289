"""A second look of the ``cpu`` kernel at a row, for what needs both normalisers first.

The first look keeps the exponentials of the row, and of each tile a mark, from which they become
probabilities by a product. No other exponential is taken, and the logits are read again only where
the most probable tokens may be.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types

from klbench.kernels.sums import EXACT, MANTISSA, ONE, SUMS, ZERO
from klbench.kernels.words import (
    ABSENT,
    IN,
    INFINITE,
    LOGITS,
    ROW,
    TABLE,
    TILE,
    F,
    compiled,
    finite,
    larger,
    tile,
)

BLOCK = 64
"""Logits that are passed over at once where none is among the largest."""
HALF, LN2, TINY, BIAS = F(0.5), F(math.log(2.0)), F(1e-37), np.int32(127)
MIDDLE = np.int32(0x3F3504F3)
"""The bits of the square root of 1/2."""
GAP = (
    *(F(0.499999976), F(-0.166667159), F(0.0833392124), F(-0.049968146)),
    *(F(0.0331008232), F(-0.0242584105), F(0.0208204247), F(-0.0131806476)),
)
"""``((1 + x) log(1 + x) - x) / x^2`` for x from ``-CLOSE`` to ``sqrt(2) - 1``, to 1e-7, by
mpmath.chebyfit, lowest power first.
"""
CLOSE = F(0.34)
MARK = types.Array(types.float64, 1, "C")
SERIES = types.UniTuple(types.float32, len(GAP))
PLACES = types.Array(types.int64, 1, "C")
PROBABILITIES = types.UniTuple(types.float32, 4)


def series(beta: float) -> tuple[Any, ...]:
    """The same for ``(beta h((1 - beta) u) + (1 - beta) h(-beta u)) / u^2``, where ``h(x)`` is what
    is divided by ``x^2`` there.
    """
    other = 1.0 - beta
    powers = (other ** (k + 1) - (-beta) ** (k + 1) for k in range(len(GAP)))
    return tuple(F(beta * other * c * power) for c, power in zip(GAP, powers, strict=True))


@compiled((MARK, types.UniTuple(types.float64, 4)))
def _probabilities(mark: np.ndarray, row: Any) -> Any:  # pragma: no cover - compiled
    """Return a, b, c, d with ``q = a e``, ``p = b e + d f``, ``p - q = c e + d f``.

    f is the exponential of the reference's logit or, where the tile is alike, what it is more than
    e, which keeps the digits of ``p - q``.
    """
    from_z, from_y, log_sum, shift = row
    rise = (mark[1] - mark[0]) - (from_y - from_z) - shift
    a = math.exp((mark[0] - from_z) - log_sum)
    d = math.exp((mark[1] - from_y) - (log_sum + shift))
    alike = mark[2] > 0.0
    c = a * math.expm1(rise) if rise < 1.0 else d - a  # the first is NaN where exp(rise) overflows
    return F(a), F(d if alike else 0.0), F(c if alike else -a), F(d)


@compiled((IN, IN, PROBABILITIES), *SUMS)
def _variation(e: np.ndarray, f: np.ndarray, to: Any) -> Any:  # pragma: no cover - compiled
    """The sum of ``|p - q|``."""
    total = ZERO
    for i in range(e.size):
        total += abs(to[2] * e[i] + to[3] * f[i])
    return np.float64(total)


@compiled((types.float32, SERIES), *EXACT)
def _polynomial(x: float, c: Any) -> Any:  # pragma: no cover - compiled
    """A polynomial, even and odd powers apart: fewer operations wait for one another."""
    s = x * x
    odd = ((c[7] * s + c[5]) * s + c[3]) * s + c[1]
    return odd * x + (((c[6] * s + c[4]) * s + c[2]) * s + c[0])


@compiled((types.float32,), *EXACT)
def _own_log(x: float) -> Any:  # pragma: no cover - compiled
    """``x log x``, of ``x = 2^k (1 + r)``."""
    bits = F(x).view(np.int32)
    k = np.int32(np.int32(bits - MIDDLE) >> MANTISSA)
    power = np.int32(np.int32(k + BIAS) << MANTISSA).view(np.float32)
    r = np.int32(bits - np.int32(k << MANTISSA)).view(np.float32) - ONE
    return power * ((r * r) * _polynomial(r, GAP) + r) + x * (F(k) * LN2)


@compiled((IN, IN, types.float32, types.float32), *SUMS)
def _own_logs(
    e: np.ndarray, f: np.ndarray, a: float, b: float
) -> Any:  # pragma: no cover - compiled
    """The sum of ``x log x``, of ``x = a e + b f``."""
    total = ZERO
    for i in range(e.size):
        total += _own_log(a * e[i] + b * f[i])
    return np.float64(total)


@compiled((IN, IN, PROBABILITIES, types.float32, SERIES, ROW, ROW), *SUMS)
def _near(
    e: np.ndarray, f: np.ndarray, to: Any, beta: float, c: Any, far_e: np.ndarray, far_f: np.ndarray
) -> Any:  # pragma: no cover - compiled
    """The sum of ``beta p log(p/m) + (1 - beta) q log(q/m)``, ``m = beta p + (1 - beta) q``, where
    p and q are close. The others are copied, and counted.

    It is ``m (beta h((1 - beta) u) + (1 - beta) h(-beta u))``, ``h(x) = (1 + x) log(1 + x) - x``,
    with ``u = (p - q) / m``, so that nothing cancels.
    """
    total, far, limit = ZERO, ZERO, F(CLOSE / larger(beta, F(ONE - beta)))
    for i in range(e.size):
        rise = to[2] * e[i] + to[3] * f[i]
        u = rise / ((to[0] * e[i] + TINY) + beta * rise)
        near = abs(u) < limit
        total += rise * u * _polynomial(u, c) if near else ZERO
        far_e[i], far_f[i] = (ZERO if near else e[i]), (ZERO if near else f[i])
        far += ZERO if near else ONE
    return np.float64(total), far


@compiled((IN, IN, PROBABILITIES, types.float32, SERIES))
def _shannon(
    e: np.ndarray, f: np.ndarray, to: Any, beta: float, c: Any
) -> Any:  # pragma: no cover - compiled
    """The same of all; those that are not close by ``x log x`` of p, of q and of m."""
    far = np.empty(e.size, F), np.empty(e.size, F)
    total, count = _near(e, f, to, beta, c, *far)
    if count > ZERO:
        other = F(ONE - beta)
        of_p, of_q = _own_logs(*far, to[1], to[3]), _own_logs(*far, to[0], ZERO)
        mixed = _own_logs(*far, beta * to[1] + other * to[0], beta * to[3])
        total += beta * of_p + other * of_q - mixed
    return total


@compiled((IN, IN), *SUMS)
def _totals(e: np.ndarray, f: np.ndarray) -> Any:  # pragma: no cover - compiled
    total_e, total_f = ZERO, ZERO
    for i in range(e.size):
        total_e += e[i]
        total_f += f[i]
    return np.float64(total_e), np.float64(total_f)


@compiled(
    (
        *(ROW, ROW, TABLE, types.UniTuple(types.float64, 4)),
        *(types.boolean, types.float32, SERIES, PLACES, MARK),
    )
)
def overlap(
    e: np.ndarray,
    f: np.ndarray,
    marks: np.ndarray,
    row: Any,
    variation: bool,
    beta: float,
    c: Any,
    places: np.ndarray,
    out: np.ndarray,
) -> None:  # pragma: no cover - compiled
    """Fill a row of ``out``: columns as of :mod:`klbench.kernels.overlap`.

    ``beta`` is 0, and ``places``, the support, empty, where nobody asks. A mark holds the offsets
    of both logits, whether the tile is alike, and the largest logit of whom the support is.
    """
    for k in range(4):
        out[k] = 0.0
    for t in range(len(marks) if variation or beta > ZERO else 0):
        part_e, part_f = e[t * TILE : (t + 1) * TILE], f[t * TILE : (t + 1) * TILE]
        to = _probabilities(marks[t], row)
        if variation:
            out[0] += HALF * _variation(part_e, part_f, to)
        if beta > ZERO:
            out[1] += _shannon(part_e, part_f, to, beta, c)
    for place in places:
        e[place] = f[place] = ZERO
    for t in range(len(marks) if places.size else 0):  # what is left are the tails
        to = _probabilities(marks[t], row)
        total = _totals(e[t * TILE : (t + 1) * TILE], f[t * TILE : (t + 1) * TILE])
        out[2] += to[0] * total[0]
        out[3] += to[1] * total[0] + to[3] * total[1]


@compiled((ROW, IN))
def raise_to(to: np.ndarray, x: np.ndarray) -> None:  # pragma: no cover - compiled
    """The larger of both, in place."""
    for i in range(x.size):
        to[i] = larger(x[i], to[i])


@compiled((IN,))
def _largest(x: np.ndarray) -> Any:  # pragma: no cover - compiled
    """The largest of a few."""
    top = -INFINITE
    for i in range(x.size):
        top = larger(x[i], top)
    return top


@compiled((LOGITS, types.int64, types.int64, IN, TABLE, PLACES))
def leading(
    logits: Any, row: int, size: int, best: np.ndarray, marks: np.ndarray, places: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Fill ``places`` with the row's largest logits', in order, of equal ones the first first.

    None of them is below the k-th largest of ``best``, the largest at each place of the tiles.
    """
    wide, k, known = np.empty(TILE, F), places.size, 0
    value, bound = np.empty(k, F), np.partition(best, TILE - k)[TILE - k]
    bound = bound if bound > ABSENT else -INFINITE
    for start in range(0, size, TILE):
        if marks[start // TILE, 3] < bound:
            continue
        n = min(TILE, size - start)
        part = tile(logits, row, size, start, start + n, wide)
        for begin in range(0, n, BLOCK):
            block = part[begin : min(begin + BLOCK, n)]
            if _largest(block) < bound:
                continue
            for i in range(block.size):
                x = finite(block[i])
                if x >= bound and (known < k or x > value[k - 1]):
                    known = min(known + 1, k)
                    at = known - 1
                    while at > 0 and value[at - 1] < x:
                        value[at], places[at] = value[at - 1], places[at - 1]
                        at -= 1
                    value[at], places[at] = x, start + begin + i
