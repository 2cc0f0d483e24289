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

from klbench.kernels.sums import EXACT, ONE, SUMS, ZERO
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
    larger,
    logit,
)

LANES, BEST, BLOCK = 64, 512, 128
"""Groups of logits in a tile, of which each is known by its largest; how many of these are kept to
bound the most probable ones; and probabilities at a time where some are far and some are close.
"""
HALF, LN2, TINY = F(0.5), F(math.log(2.0)), F(1e-37)
MIDDLE, EXPONENT, PER_BIT = np.int32(0x3F3504F3), np.int32(-0x800000), F(math.log(2.0) / 2.0**23)
"""The bits of the square root of 1/2, those of an exponent, and log 2 for each of a number's."""
GAP = (
    *(F(0.499999508), F(-0.166666259), F(0.0833959291), F(-0.0500518658)),
    *(F(0.0321182493), F(-0.0228036727), F(0.0250665864), F(-0.0198423673)),
)
"""``((1 + x) log(1 + x) - x) / x^2`` for x from ``-CLOSE`` to ``CLOSE``, to 1e-6, by
mpmath.chebyfit, lowest power first.
"""
LOG = (
    *(F(0.999999968), F(-0.500003751), F(0.33334606), F(-0.24968907)),
    *(F(0.199133479), F(-0.172782061), F(0.161262479), F(-0.0989535074)),
)
"""``log(1 + x) / x`` for x from ``sqrt(1/2) - 1`` to ``sqrt(2) - 1``, to 2e-7, likewise."""
CLOSE, REACH = F(0.5), math.log(3.0)
"""The largest ``|p - q| / (p + q)`` that is close, and ``|log(p / q)|`` there."""
FAR = 1.0 / 128.0
"""A divergence above this share of a tile's mass keeps its digits as the difference of sums."""
MARK = types.Array(types.float64, 1, "C")
SERIES = types.UniTuple(types.float32, len(GAP))
PLACES = types.Array(types.int64, 1, "C")
PROBABILITIES = types.UniTuple(types.float32, 4)


def series(beta: float) -> tuple[Any, ...]:
    """The same for ``(beta h(t) + (1 - beta) h(-t) - h((2 beta - 1) t)) / (2 t^2)``, where ``h(x)``
    is what is divided by ``x^2`` there.
    """
    skew = 2.0 * beta - 1.0
    parts = (beta + (1.0 - beta) * (-1.0) ** k - skew ** (k + 2) for k in range(len(GAP)))
    return tuple(F(0.5 * c * part) for c, part in zip(GAP, parts, strict=True))


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
    k = np.int32(np.int32(bits - MIDDLE) & EXPONENT)
    r = np.int32(bits - k).view(np.float32) - ONE
    return x * (F(k) * PER_BIT + r * _polynomial(r, LOG))


@compiled((IN, IN, types.float32, types.float32), *SUMS)
def _own_logs(
    e: np.ndarray, f: np.ndarray, a: float, b: float
) -> Any:  # pragma: no cover - compiled
    """The sum of ``x log x``, of ``x = a e + b f``."""
    total = ZERO
    for i in range(e.size):
        total += _own_log(a * e[i] + b * f[i])
    return np.float64(total)


@compiled((IN, IN, PROBABILITIES, SERIES), *SUMS)
def _near(e: np.ndarray, f: np.ndarray, to: Any, c: Any) -> Any:  # pragma: no cover - compiled
    """The sum of ``beta p log(p/m) + (1 - beta) q log(q/m)``, ``m = beta p + (1 - beta) q``, where
    p and q are close, and the largest ``|t|``.

    It is ``(p + q) (beta h(t) + (1 - beta) h(-t) - h((2 beta - 1) t)) / 2``, where
    ``h(x) = (1 + x) log(1 + x) - x`` and ``t = (p - q) / (p + q)``, so that nothing cancels.
    """
    total, most, both = ZERO, ZERO, F(to[0] + to[1])
    skewed = c[1] != ZERO
    for i in range(e.size):
        more = to[3] * f[i]
        rise = to[2] * e[i] + more
        t = rise / (both * e[i] + (more + TINY))
        s = t * t
        part = ((c[6] * s + c[4]) * s + c[2]) * s + c[0]
        if skewed:
            part += t * (((c[7] * s + c[5]) * s + c[3]) * s + c[1])
        most = larger(abs(t), most)
        total += ZERO if abs(t) >= CLOSE else rise * t * part
    return np.float64(total), most


@compiled((IN, IN, PROBABILITIES, types.float32), *SUMS)
def _far(e: np.ndarray, f: np.ndarray, to: Any, beta: float) -> Any:  # pragma: no cover - compiled
    """The same of those that are not close, by ``x log x`` of p, of q and of m."""
    total, other = ZERO, F(ONE - beta)
    for i in range(e.size):
        q, p = to[0] * e[i], to[1] * e[i] + to[3] * f[i]
        rise = to[2] * e[i] + to[3] * f[i]
        gap = beta * _own_log(p) + other * _own_log(q) - _own_log(beta * p + other * q)
        total += ZERO if abs(rise / (p + (q + TINY))) < CLOSE else gap
    return np.float64(total)


@compiled((IN, IN, MARK, PROBABILITIES, types.float64, types.float32, SERIES))
def _shannon(
    e: np.ndarray, f: np.ndarray, mark: np.ndarray, to: Any, shift: float, beta: float, c: Any
) -> Any:  # pragma: no cover - compiled
    """The same of all: of a tile as a whole where most are close, or where most are not.

    There the sums of ``p log p`` and ``q log q`` are known, and ``m log m`` is all that is left.
    """
    if mark[2] > 0.0 or max(mark[4] - shift, shift - mark[3]) < REACH:
        total, most = _near(e, f, to, c)
        if most < CLOSE:
            return total
    else:
        of_p, of_q = beta * np.float64(to[3]), (1.0 - beta) * np.float64(to[0])
        mass = of_p * mark[6] + of_q * mark[5]
        a, b = of_q / mass, of_p / mass
        total = a * (mark[7] + math.log(np.float64(to[0]) / mass) * mark[5])
        total += b * (mark[8] + math.log(np.float64(to[3]) / mass) * mark[6])
        total -= _own_logs(e, f, F(a), F(b))
        if total > FAR:
            return total * mass
    total = 0.0
    for i in range(0, e.size, BLOCK):
        part_e, part_f = e[i : i + BLOCK], f[i : i + BLOCK]
        near, most = _near(part_e, part_f, to, c)
        total += near
        if most >= CLOSE:
            total += _far(part_e, part_f, to, beta)
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
    of both logits, whether the tile is alike, the least and largest of ``y - z``, the first look's
    sums of e, f, ``e log e`` and, where the tile is not alike, ``f log f``, and the largest logit
    of whom the support is. Tiles are taken from the last, which are still in the nearest caches.
    """
    for k in range(4):
        out[k] = 0.0
    for t in range(len(marks) - 1 if variation or beta > ZERO else -1, -1, -1):
        part_e, part_f = e[t * TILE : (t + 1) * TILE], f[t * TILE : (t + 1) * TILE]
        to = _probabilities(marks[t], row)
        if variation:
            out[0] += HALF * _variation(part_e, part_f, to)
        if beta > ZERO:
            out[1] += _shannon(part_e, part_f, marks[t], to, row[1] - row[0] + row[3], beta, c)
    for place in places:
        e[place] = f[place] = ZERO
    for t in range(len(marks) if places.size else 0):  # what is left are the tails
        to = _probabilities(marks[t], row)
        total = _totals(e[t * TILE : (t + 1) * TILE], f[t * TILE : (t + 1) * TILE])
        out[2] += to[0] * total[0]
        out[3] += to[1] * total[0] + to[3] * total[1]


@compiled((IN, types.int64, ROW, ROW))
def lead(
    x: np.ndarray, t: int, groups: np.ndarray, best: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Find the largest of each group of logits of tile t, every ``LANES``-th, and raise ``best``.

    Nothing is known of a tile that is not full.
    """
    to, top = groups[t * LANES : (t + 1) * LANES], best[t * LANES % BEST : t * LANES % BEST + LANES]
    if x.size < TILE:
        to[:] = INFINITE
        return
    for i in range(LANES):
        left = larger(larger(x[i], x[i + LANES]), larger(x[i + 2 * LANES], x[i + 3 * LANES]))
        right = larger(
            larger(x[i + 4 * LANES], x[i + 5 * LANES]), larger(x[i + 6 * LANES], x[i + 7 * LANES])
        )
        to[i] = larger(left, right)
        top[i] = larger(to[i], top[i])


@compiled((IN, types.float32), *SUMS)
def _count(x: np.ndarray, bound: float) -> Any:  # pragma: no cover - compiled
    """The number of those that are not below the bound."""
    count = ZERO
    for i in range(x.size):
        count += ONE if x[i] >= bound else ZERO
    return count


@compiled((types.float32,))
def _order(x: float) -> Any:  # pragma: no cover - compiled
    """An integer that grows with x, by its bits."""
    bits = np.int64(F(x).view(np.int32))
    return bits if bits >= 0 else -0x80000000 - bits


@compiled((IN, types.int64))
def _bound(x: np.ndarray, k: int) -> Any:  # pragma: no cover - compiled
    """A number that k of x are not below, if no more than their k-th largest, by halving."""
    low, high, bound = _order(-INFINITE), _order(INFINITE), -INFINITE
    while high - low > 1:
        middle = (low + high) >> 1
        value = np.int32(middle if middle >= 0 else -0x80000000 - middle).view(np.float32)
        count = _count(x, value)
        if count < k:
            high = middle
        else:
            low, bound = middle, value
            if count == k:
                break
    return bound if bound > ABSENT else -INFINITE


@compiled((LOGITS, types.int64, types.int64, IN, IN, TABLE, PLACES))
def leading(
    logits: Any,
    row: int,
    size: int,
    groups: np.ndarray,
    best: np.ndarray,
    marks: np.ndarray,
    places: np.ndarray,
) -> None:  # pragma: no cover - compiled
    """Fill ``places`` with the row's largest logits', in order, of equal ones the first first.

    None of them is below the k-th largest of ``best``, each the largest of other groups. Logits are
    ordered with their places, as one integer, which stands in ``places`` first.
    """
    k, known, bound = places.size, 0, _bound(best, places.size)
    hits, count = np.empty(groups.size, np.int64), 0
    for t in range(len(marks)):
        if marks[t, 9] < bound:
            continue
        for group in range(LANES):
            if not groups[t * LANES + group] < bound:
                hits[count] = t * TILE + group
                count += 1
    value, per = np.empty(TILE, F), TILE // LANES
    for first in range(0, count, LANES):
        some = hits[first : min(first + LANES, count)]
        for i in range(some.size):
            for j in range(per):
                value[i * per + j] = logit(logits, row, min(some[i] + j * LANES, size - 1))
        for i in range(some.size * per):
            place = some[i // per] + i % per * LANES
            if value[i] < bound or place >= size:
                continue
            key = (_order(value[i]) << 32) - place
            if known == k and key <= places[k - 1]:
                continue
            known = min(known + 1, k)
            at = known - 1
            while at > 0 and places[at - 1] < key:
                places[at] = places[at - 1]
                at -= 1
            places[at] = key
    for at in range(k):
        places[at] = -places[at] & 0xFFFFFFFF
