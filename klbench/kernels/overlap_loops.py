"""A second pass of the ``cpu`` kernel over rows, for what needs both normalisers first."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types

from klbench.kernels.loops import INDEX, TABLE
from klbench.kernels.sums import (
    ALIKE,
    EXACT,
    MANTISSA,
    ONE,
    SUMS,
    ZERO,
    between,
    excess,
    exp,
    split,
)
from klbench.kernels.words import (
    ABSENT,
    IN,
    INFINITE,
    LOGITS,
    ROW,
    TILE,
    F,
    compiled,
    finite,
    larger,
    logit,
    tile,
)

FOUND = types.UniTuple(types.float32, 4)
PLACES = types.Array(types.int64, 2, "C")
BLOCK = 32
"""Logits that are passed over at once where none is among the largest."""
HALF, TWO, LN2 = F(0.5), F(2.0), F(math.log(2.0))
MIDDLE = np.int32(0x3F3504F3)
"""The bits of the square root of 1/2."""
# log(1 + x) = 2 s + s^3 P(s^2) with s = x / (2 + x), for s^2 < 1/9, by mpmath.chebyfit.
L0, L1, L2, L3 = F(0.26851498), F(0.2823662), F(0.40007561), F(0.6666664)


@compiled((IN, types.float32, types.float32, ROW), *EXACT)
def _densities(
    x: np.ndarray, top: float, log_sum: float, to: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Probabilities."""
    for i in range(x.size):
        to[i] = exp((x[i] - top) - log_sum)


@compiled((IN, IN, FOUND, ROW), *EXACT)
def _log_ratios(
    z: np.ndarray, y: np.ndarray, row: Any, to: np.ndarray
) -> None:  # pragma: no cover - compiled
    """``log p/q``."""
    to_z, of_y, rest = split(row[0], row[1])
    for i in range(z.size):
        to[i] = between(finite(z[i]), finite(y[i]), to_z, of_y, rest) - row[3]


@compiled((IN, IN, IN), *SUMS)
def _variation(q: np.ndarray, p: np.ndarray, g: np.ndarray) -> Any:  # pragma: no cover - compiled
    """The sum of ``|p - q|``."""
    total = ZERO
    for i in range(q.size):
        total += abs(q[i] * (g[i] + excess(g[i])) if abs(g[i]) < ALIKE else p[i] - q[i])
    return np.float64(total)


@compiled((IN, IN, IN, types.float32), *SUMS)
def _shannon(
    q: np.ndarray, p: np.ndarray, g: np.ndarray, beta: float
) -> Any:  # pragma: no cover - compiled
    """The sum of ``b (c h(w) - h(c w))``, ``h(x) = (1 + x) log(1 + x) - x``.

    b is the larger of both probabilities, c its complement's share in the mixture, and ``1 + w``
    the other over b, so that nothing cancels and nothing overflows.
    """
    total = ZERO
    for i in range(q.size):
        v = -abs(g[i])
        base, share = (q[i], beta) if g[i] < ZERO else (p[i], ONE - beta)
        gap, near = excess(v), -v < ALIKE
        r = exp(v)
        w = v + gap if near else r - ONE
        whole = v * w - gap if near else r * v - w
        x = share * w
        mixed = F(ONE + x)
        k = np.int32(np.int32(mixed.view(np.int32) - MIDDLE) >> MANTISSA)
        k = k if x < -HALF else np.int32(0)
        m = np.int32(mixed.view(np.int32) - np.int32(k << MANTISSA)).view(np.float32)
        rest = m - ONE if x < -HALF else x
        s = rest / (TWO + rest)
        t = s * s
        odd = (((L0 * t + L1) * t + L2) * t + L3) * s
        far = mixed * (TWO * s + odd * t + F(k) * LN2) - x
        part = far if x < -HALF else t * (TWO + (ONE + s) * odd) * (ONE + HALF * x)
        total += base * (share * whole - part)
    return np.float64(total)


@compiled((IN, types.float32, types.int64, IN, IN), *SUMS)
def _outside(
    own: np.ndarray, least: float, end: int, q: np.ndarray, p: np.ndarray
) -> Any:  # pragma: no cover - compiled
    """Masses of both beyond a support whose last token, at ``end``, has logit ``least``."""
    of_q, of_p, last = ZERO, ZERO, np.int32(end)
    for i in range(own.size):
        x = finite(own[i])
        inside = (x > least) | ((x == least) & (np.int32(i) <= last))
        of_q += ZERO if inside else q[i]
        of_p += ZERO if inside else p[i]
    return np.float64(of_q), np.float64(of_p)


@compiled(
    (
        *(LOGITS, LOGITS, types.int64, types.int64, types.int64, TABLE),
        *(types.boolean, types.float32, INDEX, types.boolean, TABLE),
    )
)
def overlap(
    policy: Any,
    reference: Any,
    size: int,
    first: int,
    last: int,
    found: np.ndarray,
    variation: bool,
    beta: float,
    ends: np.ndarray,
    by_policy: bool,
    out: np.ndarray,
) -> None:  # pragma: no cover - compiled
    """Fill rows of ``out``: columns as of :mod:`klbench.kernels.overlap`.

    ``beta`` is 0, and ``ends`` empty, where nobody asks.
    """
    wide_z, wide_y, q, p, g = (
        np.empty(TILE, F),
        np.empty(TILE, F),
        np.empty(TILE, F),
        np.empty(TILE, F),
        np.empty(TILE, F),
    )
    for i in range(first, last):
        row = (F(found[i, 5]), F(found[i, 6]), F(found[i, 7]), F(found[i, 8]))
        end = ends[i] if ends.size else 0
        least = ABSENT
        if ends.size:
            least = finite(F(logit(policy, i, end) if by_policy else logit(reference, i, end)))
        for k in range(4):
            out[i, k] = 0.0
        for start in range(0, size, TILE):
            n = min(TILE, size - start)
            tile_z = tile(policy, i, size, start, start + n, wide_z)
            tile_y = tile(reference, i, size, start, start + n, wide_y)
            _densities(tile_z, row[0], row[2], q[:n])
            _densities(tile_y, row[1], row[2] + row[3], p[:n])
            if variation or beta > ZERO:
                _log_ratios(tile_z, tile_y, row, g[:n])
            if variation:
                out[i, 0] += HALF * _variation(q[:n], p[:n], g[:n])
            if beta > ZERO:
                out[i, 1] += _shannon(q[:n], p[:n], g[:n], beta)
            if ends.size:
                own = tile_z if by_policy else tile_y
                tails = _outside(own, least, max(end - start, -1), q[:n], p[:n])
                out[i, 2] += tails[0]
                out[i, 3] += tails[1]


@compiled((IN,))
def _largest(x: np.ndarray) -> Any:  # pragma: no cover - compiled
    """The largest of a few."""
    top = -INFINITE
    for i in range(x.size):
        top = larger(x[i], top)
    return top


@compiled((LOGITS, types.int64, types.int64, types.int64, PLACES))
def leading(
    logits: Any, size: int, first: int, last: int, places: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Fill rows of ``places`` with the largest logits', in order, of equal ones the first first."""
    wide, k = np.empty(TILE, F), places.shape[1]
    value = np.empty(k, F)
    for row in range(first, last):
        place, known = places[row], 0
        for start in range(0, size, TILE):
            n = min(TILE, size - start)
            part = tile(logits, row, size, start, start + n, wide)
            for begin in range(0, n, BLOCK):
                block = part[begin : min(begin + BLOCK, n)]
                if known == k and _largest(block) <= value[k - 1]:
                    continue
                for i in range(block.size):
                    x = finite(block[i])
                    if known < k or x > value[k - 1]:
                        known = min(known + 1, k)
                        at = known - 1
                        while at > 0 and value[at - 1] < x:
                            value[at], place[at] = value[at - 1], place[at - 1]
                            at -= 1
                        value[at], place[at] = x, start + begin + i
