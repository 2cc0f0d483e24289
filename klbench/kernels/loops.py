"""The loops of the ``cpu`` kernel, float32, compiled by Numba: imported where it is first used.

Each loop is written so that it becomes vector instructions: one type of number throughout, no
calls, no branches but choices between two values that are both computed. Sums may be taken in any
order; elsewhere rounding is as written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic

F = np.float32
TILE = 1024
"""Logits at a time, of each.

They stay in the nearest cache while the next ones are on their way, and their sums are short.
"""
FULL, BRAIN, SMALL = 0, 1, 2
"""Kinds of logits: float32, which take two words each, bfloat16 and float16."""
NAN_BITS = np.uint32(0x7FC0)
ABSENT = F(-1e30)
SHIFTED = F(4.0)
"""The difference of the largest logits from which it is subtracted before logits are compared,
to keep the order exact.
"""
ZERO, ONE, INFINITE = F(0.0), F(1.0), F(np.inf)
UNDERFLOW = F(-87.0)
"""Below it exp is 0 here; its smallest normal number is close."""
PER_LN2 = F(1.0 / math.log(2.0))
LN2 = F(math.log(2.0))
"""To 2e-9, and its product with the exponent is not rounded before it is subtracted."""
ROUND = F(1.5 * 2.0**23)
"""A sum with it is rounded to an integer, which then stands in the last bits."""
MANTISSA = np.int32(23)
# Near-minimax, by mpmath.chebyfit: (exp(x) - 1) / x for |x| < ln(2) / 2, so that exp is right to
# 1.5e-7; (exp(x) - 1 - x) / x^2 for |x| < 1 to 5e-8; then, in t = x^2 for |x| < 1/2,
# (cosh(x) - 1) / t to 1e-9 and (sinh(x) - x) / (x t) to 1e-8. Highest power first.
E0, E1, E2, E3 = F(0.008363179), F(0.041875686), F(0.16666577), F(0.49999372)
G0, G1, G2, G3 = F(2.5288435e-5), F(2.0329021e-4), F(0.0013886448), F(0.0083308862)
G4, G5, G6 = F(0.041666697), F(0.16666697), F(0.5)
C0, C1, C2 = F(0.0013982186), F(0.041665792), F(0.5)
S0, S1 = F(0.008383088), F(0.1666651)
NEAR = F(0.5)
ALIKE = F(1.0)
"""A difference of logits below which the second exponential is a polynomial of the difference."""
DISTINCT = 1.0 / 32.0
"""A divergence above this share of both sums keeps its digits as the difference of the sums."""
HALF = 0.5
EXACT = ("contract",)
SUMS = ("reassoc", "contract", "nsz")

_ROW = types.Array(types.float32, 1, "C")
_IN = types.Array(types.float32, 1, "C", readonly=True)
_BITS = types.Array(types.uint16, 1, "C", readonly=True)
_TO_BITS = types.Array(types.uint16, 1, "C")
_LOGITS = types.Tuple((_BITS, types.int64, types.int64))
"""Rows of logits as words of 16 bits, the words from one row to the next, and their kind."""
_INDEX = types.Array(types.int64, 1, "C", readonly=True)
_TABLE = types.Array(types.float64, 2, "C")
_WEIGHTS = types.Array(types.float32, 2, "C", readonly=True)


def _compiled(signature: Any, *fast: str) -> Callable[[Callable[..., Any]], Any]:
    """Compile now, or load what an earlier process compiled.

    ``fast`` are the liberties that rounding may take.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        options: dict[str, Any] = {"fastmath": set(fast), "error_model": "numpy", "nogil": True}
        try:
            return njit(signature, cache=True, **options)(function)
        except (RuntimeError, OSError):  # nowhere to keep it
            return njit(signature, **options)(function)

    return decorate


@_compiled((types.float32,), *EXACT)
def _power(v: float) -> Any:  # pragma: no cover - compiled
    """``exp(v)`` for v from ``UNDERFLOW`` to little above 0, to ``2e-7 + 3e-9 |v|``.

    Of NaN any number: who calls it has NaN in other sums.
    """
    rounded = F(v * PER_LN2 + ROUND)
    r = v - (rounded - ROUND) * LN2
    p = F(((((E0 * r + E1) * r + E2) * r + E3) * r + ONE) * r + ONE)
    # To the exponent: one addition where a multiplication would wait for others.
    return np.int32(p.view(np.int32) + (rounded.view(np.int32) << MANTISSA)).view(np.float32)


@_compiled((types.float32,), *EXACT)
def _exp(v: float) -> Any:  # pragma: no cover - compiled
    """The same, 0 for all that is less, and NaN for NaN."""
    value = _power(v) + (v - v)
    return ZERO if v < UNDERFLOW else value


@_compiled((types.float32,), *EXACT)
def _finite(x: float) -> Any:  # pragma: no cover - compiled
    """The logit, or ``ABSENT`` for one that is less; NaN stays."""
    return ABSENT if x < ABSENT else x


@_compiled((types.float32,) * 5, *EXACT)
def _between(
    z: float, y: float, to_z: float, from_y: float, rest: float
) -> Any:  # pragma: no cover - compiled
    """``y - z`` less the three.

    Subtracting neighbours first is exact, so that small differences keep their digits.
    """
    return ((y - from_y) - (z + to_z)) - rest


@_compiled((types.float32, types.float32))
def _origins(top_z: Any, top_y: Any) -> Any:  # pragma: no cover - compiled
    """Return the offsets of z and y.

    Their largest, the smaller of the two rounded until their difference is exact.
    """
    z, y = ZERO if top_z == ABSENT else top_z, ZERO if top_y == ABSENT else top_y
    s = y - z
    if not abs(s) < INFINITE:
        return z, y
    return (y - s, y) if abs(z) < abs(y) else (z, z + s)


@_compiled((types.float32, types.float32))
def _split(from_z: float, from_y: float) -> Any:  # pragma: no cover - compiled
    """``from_y - from_z`` as the three above, two of them 0.

    If it is large, then that of the larger logits.
    """
    s = from_y - from_z
    if not abs(s) > SHIFTED:
        return ZERO, ZERO, s
    return (ZERO, s, ZERO) if abs(from_y) >= abs(from_z) else (s, ZERO, ZERO)


def _choice(order: str) -> Any:
    """The larger (``>``) or smaller of two numbers of which none is NaN: a vector instruction."""

    @intrinsic
    def choose(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            flags = ("nnan", "nsz")
            first = builder.fcmp_ordered(order, *args, flags=flags)
            return builder.select(first, *args, flags=flags)

        return types.float32(types.float32, types.float32), generate

    return choose


_larger, _smaller = _choice(">"), _choice("<")


@_compiled((_IN, _IN))
def _ranges(z: np.ndarray, y: np.ndarray) -> Any:  # pragma: no cover - compiled
    """Largest and least of z, of y, and of ``y - z``; any numbers where there is a NaN."""
    top_z, top_y, top_g = -INFINITE, -INFINITE, -INFINITE
    low_z, low_y, low_g = INFINITE, INFINITE, INFINITE
    for i in range(z.size):
        g = y[i] - z[i]
        top_z, low_z = _larger(z[i], top_z), _smaller(z[i], low_z)
        top_y, low_y = _larger(y[i], top_y), _smaller(y[i], low_y)
        top_g, low_g = _larger(g, top_g), _smaller(g, low_g)
    return top_z, low_z, top_y, low_y, top_g, low_g


@intrinsic
def _widened(typing: Any, bits: Any) -> Any:
    """The float32 that equals a float16 of these bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def _narrowed(typing: Any, value: Any) -> Any:
    """The bits of the float16 that is nearest to a float32, half to even."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


@_compiled((_BITS, types.int64, _ROW))
def _widen(bits: np.ndarray, kind: int, to: np.ndarray) -> None:  # pragma: no cover - compiled
    """Logits of 16 bits as float32; bfloat16 is the upper half of one."""
    if kind == BRAIN:
        words = to.view(np.uint32)
        for i in range(bits.size):
            words[i] = np.uint32(bits[i]) << np.uint32(16)
    else:
        for i in range(bits.size):
            to[i] = _widened(bits[i])  # type: ignore[call-arg]


@_compiled((_IN, types.int64, _TO_BITS))
def _narrow(x: np.ndarray, kind: int, to: np.ndarray) -> None:  # pragma: no cover - compiled
    """Round to 16 bits, half to even."""
    if kind == BRAIN:
        words = x.view(np.uint32)
        for i in range(x.size):
            b = words[i]
            rounded = (b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) >> np.uint32(
                16
            )
            to[i] = np.uint16(NAN_BITS if x[i] != x[i] else rounded)
    else:
        for i in range(x.size):
            to[i] = _narrowed(x[i])  # type: ignore[call-arg]


@_compiled((_LOGITS, types.int64, types.int64, types.int64, types.int64, _ROW))
def _tile(
    logits: Any, row: int, size: int, start: int, stop: int, buffer: np.ndarray
) -> Any:  # pragma: no cover - compiled
    """Part of a row as float32: where it is, or in the buffer."""
    bits, stride, kind = logits
    words = 2 if kind == FULL else 1
    ends = bits[row * stride : row * stride + words * size]
    part = ends[words * start : words * stop]
    tile = part.view(np.float32)[: stop - start] if kind == FULL else buffer[: stop - start]
    if kind != FULL:
        _widen(part, kind, buffer)
    return tile


@_compiled((_LOGITS, types.int64, types.int64))
def _logit(logits: Any, row: int, k: int) -> Any:  # pragma: no cover - compiled
    """One logit, and ``-inf`` for one that is absent."""
    bits, stride, kind = logits
    words, at = 2 if kind == FULL else 1, row * stride
    one = np.empty(1, F)
    x = bits[at + words * k : at + words * (k + 1)]
    if kind == FULL:
        one[0] = x.view(np.float32)[0]
    else:
        _widen(x, kind, one)
    return -np.inf if one[0] <= ABSENT else np.float64(one[0])


@_compiled((_IN, _IN, _ROW, _ROW))
def _fill(
    z: np.ndarray, y: np.ndarray, to_z: np.ndarray, to_y: np.ndarray
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Copies with ``ABSENT`` in the place of what is less.

    How often z alone is absent, and y alone.
    """
    no_z, no_y = 0, 0
    for i in range(z.size):
        v, w = _finite(z[i]), _finite(y[i])
        to_z[i], to_y[i] = v, w
        no_z += (v == ABSENT) & (w != ABSENT)
        no_y += (v != ABSENT) & (w == ABSENT)
    return no_z, no_y


@_compiled((_IN, types.float32, _ROW), *EXACT)
def _weights(x: np.ndarray, top: float, weight: np.ndarray) -> None:  # pragma: no cover - compiled
    """``exp(x - top)``.

    It and its sums are loops apart: as one they would need more numbers at hand than a processor
    has places for, and a sum that has to be put away in every turn takes twice the time of
    everything else.
    """
    for i in range(x.size):
        weight[i] = _exp(x[i] - top)


@_compiled((_IN, types.float32, _IN), *SUMS)
def _moments(x: np.ndarray, top: float, weight: np.ndarray) -> Any:  # pragma: no cover - compiled
    """The sums of ``weight`` and of ``(x - top) weight``."""
    total, tilted = ZERO, ZERO
    for i in range(x.size):
        total += weight[i]
        tilted += weight[i] * (x[i] - top)
    return np.float64(total), np.float64(tilted)


@_compiled((_IN, _IN, _IN, _IN, types.float32, types.float32), *SUMS)
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
    to_z, of_y, rest = _split(from_z, from_y)
    for i in range(z.size):
        e, f = weight_z[i], weight_y[i]
        g = _between(z[i], y[i], to_z, of_y, rest)
        t = g * g
        even, odd = ((C0 * t + C1) * t + C2) * g, (S0 * t + S1) * t
        eg, fg, d = e * g, f * g, f - e
        near = abs(g) < NEAR
        qg += eg
        pg += fg
        gap_q += eg * (even + odd) if near else d - eg
        gap_p += fg * (even - odd) if near else fg - d
    return np.float64(qg), np.float64(pg), np.float64(gap_q), np.float64(gap_p)


@_compiled((_IN, _IN, types.float32, types.float32), *SUMS)
def _alike(
    z: np.ndarray, y: np.ndarray, from_z: float, from_y: float
) -> Any:  # pragma: no cover - compiled
    """The seven sums of :func:`forward` with one exponential, if no ``|g|`` is above ``ALIKE``."""
    q, qa, qg, gap_q, gaps = ZERO, ZERO, ZERO, ZERO, ZERO
    to_z, of_y, rest = _split(from_z, from_y)
    for i in range(z.size):
        a, g = z[i] - from_z, _between(z[i], y[i], to_z, of_y, rest)
        e = _power(a)
        gap = ((((((G0 * g + G1) * g + G2) * g + G3) * g + G4) * g + G5) * g + G6) * (g * g)
        eg = e * g
        q += e
        qa += e * a
        qg += eg
        gap_q += e * gap
        gaps += eg * (g + gap)
    of_q, of_qg, of_gap = np.float64(q), np.float64(qg), np.float64(gap_q)
    rise, both = of_qg + of_gap, np.float64(gaps)  # p - q, and the sum of both gaps
    return of_q, of_q + rise, np.float64(qa), of_qg, of_qg + both, of_gap, both - of_gap


@_compiled((_IN, _IN, types.float32, types.float32), *SUMS)
def _distinct(
    z: np.ndarray, y: np.ndarray, from_z: float, from_y: float
) -> Any:  # pragma: no cover - compiled
    """The seven sums of :func:`forward`, with gaps as differences of sums."""
    q, p, qa, qg, pg = ZERO, ZERO, ZERO, ZERO, ZERO
    for i in range(z.size):
        a, b = z[i] - from_z, y[i] - from_y
        e, f, g = _power(a), _power(b), b - a
        q += e
        p += f
        qa += e * a
        qg += e * g
        pg += f * g
    of_q, of_p, of_qg, of_pg = np.float64(q), np.float64(p), np.float64(qg), np.float64(pg)
    return of_q, of_p, np.float64(qa), of_qg, of_pg, of_p - of_q - of_qg, of_q - of_p + of_pg


@_compiled((_IN, _IN, types.float32, types.float32, _ROW, _ROW))
def _careful(
    z: np.ndarray, y: np.ndarray, from_z: float, from_y: float, e: np.ndarray, f: np.ndarray
) -> Any:  # pragma: no cover - compiled
    """The seven sums of :func:`forward`, for any numbers, by way of the weights e and f."""
    _weights(z, from_z, e)
    _weights(y, from_y, f)
    of_z, of_y = _moments(z, from_z, e), _moments(y, from_y, f)
    differ = _compare(z, y, e, f, from_z, from_y)
    return of_z[0], of_y[0], of_z[1], differ[0], differ[1], differ[2], differ[3]


@_compiled((_LOGITS, _LOGITS, types.int64, _INDEX, types.int64, types.int64, _TABLE))
def forward(
    policy: Any,
    reference: Any,
    size: int,
    tokens: np.ndarray,
    first: int,
    last: int,
    found: np.ndarray,
) -> None:  # pragma: no cover - compiled
    """Fill rows ``first`` to ``last`` of ``found``, whose columns :mod:`klbench.kernels.autograd`
    names.
    """
    wide_z, wide_y, filled_z, filled_y = (
        np.empty(TILE, F),
        np.empty(TILE, F),
        np.empty(TILE, F),
        np.empty(TILE, F),
    )
    weight_z, weight_y = np.empty(TILE, F), np.empty(TILE, F)
    for row in range(first, last):
        top_z, top_y, from_z, from_y = ABSENT, ABSENT, ZERO, ZERO
        q, p, qa, qg, pg, gap_q, gap_p, no_q, no_p = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0
        for start in range(0, size, TILE):
            n = min(TILE, size - start)
            tile_z = _tile(policy, row, size, start, start + n, wide_z)
            tile_y = _tile(reference, row, size, start, start + n, wide_y)
            had_z, had_y, was_z, was_y = top_z > ABSENT, top_y > ABSENT, from_z, from_y
            most_z, least_z, most_y, least_y, most_g, least_g = _ranges(tile_z, tile_y)
            top_z, top_y = max(top_z, most_z), max(top_y, most_y)
            from_z, from_y = _origins(top_z, top_y)
            if start > 0 and (from_z != was_z or from_y != was_y):
                # a falls by up_z, b by up_y, g changes by d. A sum over nothing but absent logits
                # is 0 and stays so.
                up_z = np.float64(from_z) - np.float64(was_z) if had_z else 0.0
                up_y = np.float64(from_y) - np.float64(was_y) if had_y else 0.0
                d, less_q, less_p = up_z - up_y, math.exp(-up_z), math.exp(-up_y)
                excess, back = math.expm1(min(d, 1.0)), math.expm1(-max(d, -1.0))
                gap_q = less_p * gap_q + less_q * ((excess - d) * q + excess * qg)
                gap_p = less_q * gap_p + less_p * ((back + d) * p - back * pg)
                qa, qg, pg = less_q * (qa - up_z * q), less_q * (qg + d * q), less_p * (pg + d * p)
                q, p = less_q * q, less_p * p
                if abs(d) > HALF:  # by definition, where that loses nothing
                    gap_q, gap_p = p - q - qg, q - p + pg
            s = from_y - from_z
            if most_g - s < ALIKE and least_g - s > -ALIKE and least_z - from_z > UNDERFLOW:
                part = _alike(tile_z, tile_y, from_z, from_y)
                good = True
            else:
                part = _distinct(tile_z, tile_y, from_z, from_y)
                enough = DISTINCT * (part[0] + part[1])
                good = gap_q + part[5] > enough and gap_p + part[6] > enough
                good = good and least_z - from_z > UNDERFLOW and least_y - from_y > UNDERFLOW
            if not (good and math.isfinite(part[2] + part[4])):
                no_z, no_y = _fill(tile_z, tile_y, filled_z[:n], filled_y[:n])
                no_q += no_z
                no_p += no_y
                e, f = weight_z[:n], weight_y[:n]
                part = _careful(filled_z[:n], filled_y[:n], from_z, from_y, e, f)
            q += part[0]
            p += part[1]
            qa += part[2]
            qg += part[3]
            pg += part[4]
            gap_q += part[5]
            gap_p += part[6]
        q = q if q != 0.0 else np.nan
        p = p if p != 0.0 else np.nan
        near_q, near_p = (
            (qg + gap_q) / q,
            (gap_p - pg) / p,
        )  # p / q - 1 and q / p - 1, unless they are differences of large
        are_near = no_q + no_p == 0 and abs(near_q) < HALF and gap_q < q
        shift = math.log1p(near_q) if are_near else math.log(p / q)
        kl_qp = gap_q / q + (shift - near_q) if are_near else shift - qg / q
        are_near = abs(near_p) < HALF and gap_p < p
        kl_pq = gap_p / p + (math.log1p(near_p) - near_p) if are_near else pg / p - shift
        out = found[row]
        out[0] = (_logit(policy, row, tokens[row]) - from_z) - math.log(q)
        out[1] = (_logit(reference, row, tokens[row]) - from_y) - math.log(p)
        out[2] = kl_qp if no_p == 0 else np.inf + shift
        out[3] = kl_pq if no_q == 0 else np.inf + shift
        out[4] = math.log(q) - qa / q
        out[5], out[6], out[7], out[8] = from_z, from_y, math.log(q), shift


@_compiled((_IN, _IN, types.UniTuple(types.float32, 4), _WEIGHTS, types.int64, _ROW), *EXACT)
def _gradient(
    z: np.ndarray, y: np.ndarray, row: tuple[float, ...], w: np.ndarray, k: int, out: np.ndarray
) -> None:  # pragma: no cover - compiled
    """``q (w0 u + w2 log q + w3) + w1 p``, with ``u = log q/p``."""
    from_z, from_y, log_sum, shift = row
    w0, w1, w2, w3 = w[k, 0], w[k, 1], w[k, 2], w[k, 3]
    to_z, of_y, rest = _split(from_z, from_y)
    log_sum_p = log_sum + shift
    for i in range(z.size):
        z_i, y_i = _finite(z[i]), _finite(y[i])
        log_q = (z_i - from_z) - log_sum
        u = shift - _between(z_i, y_i, to_z, of_y, rest)
        out[i] = _exp(log_q) * ((w0 * u + w2 * log_q) + w3) + w1 * _exp((y_i - from_y) - log_sum_p)


@_compiled(
    (
        _LOGITS,
        _LOGITS,
        types.int64,
        _INDEX,
        types.int64,
        types.int64,
        _TABLE,
        _WEIGHTS,
        _TO_BITS,
        types.int64,
    )
)
def backward(
    policy: Any,
    reference: Any,
    size: int,
    tokens: np.ndarray,
    first: int,
    last: int,
    found: np.ndarray,
    weights: np.ndarray,
    gradient: np.ndarray,
    kind: int,
) -> None:  # pragma: no cover - compiled
    """Fill rows ``first`` to ``last`` of the gradient, of the given kind, for weights as in
    :mod:`klbench.kernels.autograd`.
    """
    wide_z, wide_y, wide_out = np.empty(TILE, F), np.empty(TILE, F), np.empty(TILE, F)
    words = 2 if kind == FULL else 1
    for i in range(first, last):
        bits = gradient[words * i * size : words * (i + 1) * size]
        w = weights[i]
        if w[0] == ZERO and w[1] == ZERO and w[2] == ZERO and w[3] == ZERO and w[4] == ZERO:
            for j in range(bits.size):
                bits[j] = 0
            continue
        row = (F(found[i, 5]), F(found[i, 6]), F(found[i, 7]), F(found[i, 8]))
        for start in range(0, size, TILE):
            stop = min(start + TILE, size)
            tile_z = _tile(policy, i, size, start, stop, wide_z)
            tile_y = _tile(reference, i, size, start, stop, wide_y)
            part = bits[words * start : words * stop]
            out = (
                part.view(np.float32)[: stop - start] if kind == FULL else wide_out[: stop - start]
            )
            _gradient(tile_z, tile_y, row, weights, i, out)
            if start <= tokens[i] < stop:
                out[tokens[i] - start] += w[4]
            if kind != FULL:
                _narrow(out, kind, part)
