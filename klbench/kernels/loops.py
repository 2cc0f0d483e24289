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
TILE = 512
"""Logits at a time, of each.

They stay in the nearest cache while the next ones are on their way, and their sums are short.
"""
LINE = 16
"""Logits that memory hands over at once."""
ABSENT = F(-1e30)
SHIFTED = F(4.0)
"""The difference of the largest logits from which it is subtracted before logits are compared,
to keep the order exact.
"""
ZERO, INFINITE = F(0.0), F(np.inf)
UNDERFLOW = F(-87.0)
"""Below it exp is 0 here; its smallest normal number is close."""
PER_LN2 = F(1.0 / math.log(2.0))
LN2 = F(math.log(2.0))
"""To 2e-9, and its product with the exponent is not rounded before it is subtracted."""
ROUND = F(1.5 * 2.0**23)
"""A sum with it is rounded to an integer, which then stands in the last bits."""
BIAS, MANTISSA, SIGN = np.int32(127), np.int32(23), np.int32(31)
LOWEST, HIGHEST = np.int32(-(2**31)), np.int32(2**31 - 1)
# Near-minimax, by mpmath.chebyfit: (exp(x) - 1 - x) / x^2 for |x| < ln(2) / 2, to 4e-9; then, in t
# = x^2 for |x| < 1/2, (cosh(x) - 1) / t to 1e-9 and (sinh(x) - x) / (x t) to 1e-8. Highest power
# first.
E0, E1, E2, E3, E4 = F(0.0013926204), F(0.008363195), F(0.041666556), F(0.16666576), F(0.5)
C0, C1, C2 = F(0.0013982186), F(0.041665792), F(0.5)
S0, S1 = F(0.008383088), F(0.1666651)
NEAR = F(0.5)
HALF = 0.5
EXACT = ("contract",)
SUMS = ("reassoc", "contract", "nsz")

_ROW = types.Array(types.float32, 1, "C")
_IN = types.Array(types.float32, 1, "C", readonly=True)
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
def _exp(v: float) -> Any:  # pragma: no cover - compiled
    """``exp(v)`` for v of 0 or less, or little above, to ``1e-7 + 3e-9 |v|``.

    The terms in pairs, not in a chain.
    """
    rounded = F(v * PER_LN2 + ROUND)
    k = rounded - ROUND
    scale = np.int32((rounded.view(np.int32) + BIAS) << MANTISSA).view(np.float32)
    r = v - k * LN2
    t = r * r
    p = (E0 * t + (E1 * r + E2)) * t + (E3 * r + E4)
    value = p * (scale * t) + (scale * r + scale)
    return ZERO if v < UNDERFLOW else value  # this way round, NaN stays NaN


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


@_compiled((_IN,))
def _range(x: np.ndarray) -> Any:  # pragma: no cover - compiled
    """Largest and least. Compared as integers that are ordered alike, since vectors of floats
    cannot be, for NaN's sake.
    """
    bits = x.view(np.int32)
    most, least = LOWEST, HIGHEST
    for i in range(bits.size):
        b = np.int32(bits[i] ^ ((bits[i] >> SIGN) & HIGHEST))
        most, least = max(most, b), min(least, b)
    most, least = (
        np.int32(most ^ ((most >> SIGN) & HIGHEST)),
        np.int32(least ^ ((least >> SIGN) & HIGHEST)),
    )
    return most.view(np.float32), least.view(np.float32)


@intrinsic
def _fetch(typing: Any, array: Any, index: Any) -> Any:
    """Ask for ``array[index]`` to be brought nearer, and go on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        number, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        # to read, to keep, data
        builder.call(
            prefetch,
            [builder.bitcast(builder.gep(data, [args[1]]), byte), number(0), number(3), number(1)],
        )
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@_compiled((_IN, types.int64, types.int64))
def _ahead(x: np.ndarray, start: int, stop: int) -> None:  # pragma: no cover - compiled
    """Ask for a part of the row."""
    for i in range(start, min(stop, x.size), LINE):
        _fetch(x, i)  # type: ignore[call-arg]


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
    return total, tilted


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
    return qg, pg, gap_q, gap_p


@_compiled(
    (_IN, types.int64, _IN, types.int64, types.int64, _INDEX, types.int64, types.int64, _TABLE)
)
def forward(
    policy: np.ndarray,
    policy_stride: int,
    reference: np.ndarray,
    reference_stride: int,
    size: int,
    tokens: np.ndarray,
    first: int,
    last: int,
    found: np.ndarray,
) -> None:  # pragma: no cover - compiled
    """Fill rows ``first`` to ``last`` of ``found``, whose columns :mod:`klbench.kernels.autograd`
    names.

    Row i of either tensor begins at ``i * stride``.
    """
    weight_z, weight_y, filled_z, filled_y = (
        np.empty(TILE, F),
        np.empty(TILE, F),
        np.empty(TILE, F),
        np.empty(TILE, F),
    )
    for row in range(first, last):
        z = policy[row * policy_stride : row * policy_stride + size]
        y = reference[row * reference_stride : row * reference_stride + size]
        top_z, top_y, from_z, from_y = ABSENT, ABSENT, ZERO, ZERO
        q, p, qa, qg, pg, gap_q, gap_p, no_q, no_p = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0
        for start in range(0, size, TILE):
            tile_z, tile_y = z[start : min(start + TILE, size)], y[start : min(start + TILE, size)]
            had_z, had_y, was_z, was_y = top_z > ABSENT, top_y > ABSENT, from_z, from_y
            most_z, least_z = _range(tile_z)
            most_y, least_y = _range(tile_y)
            top_z, top_y = max(top_z, most_z), max(top_y, most_y)
            from_z, from_y = _origins(top_z, top_y)
            if least_z <= ABSENT or least_y <= ABSENT:
                n = tile_z.size
                no_z, no_y = _fill(tile_z, tile_y, filled_z[:n], filled_y[:n])
                tile_z, tile_y = filled_z[:n], filled_y[:n]
                no_q += no_z
                no_p += no_y
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
            e, f = weight_z[: tile_z.size], weight_y[: tile_z.size]
            _ahead(z, start + TILE, start + 2 * TILE)
            _weights(tile_z, from_z, e)
            _ahead(y, start + TILE, start + 2 * TILE)
            _weights(tile_y, from_y, f)
            of_z, of_y = _moments(tile_z, from_z, e), _moments(tile_y, from_y, f)
            differ = _compare(tile_z, tile_y, e, f, from_z, from_y)
            q += of_z[0]
            p += of_y[0]
            qa += of_z[1]
            qg += differ[0]
            pg += differ[1]
            gap_q += differ[2]
            gap_p += differ[3]
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
        of_q, of_p = np.float64(z[tokens[row]]), np.float64(y[tokens[row]])
        out = found[row]
        out[0] = ((-np.inf if of_q <= ABSENT else of_q) - from_z) - math.log(q)
        out[1] = ((-np.inf if of_p <= ABSENT else of_p) - from_y) - math.log(p)
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
        _IN,
        types.int64,
        _IN,
        types.int64,
        types.int64,
        _INDEX,
        types.int64,
        types.int64,
        _TABLE,
        _WEIGHTS,
        _ROW,
        types.int64,
    )
)
def backward(
    policy: np.ndarray,
    policy_stride: int,
    reference: np.ndarray,
    reference_stride: int,
    size: int,
    tokens: np.ndarray,
    first: int,
    last: int,
    found: np.ndarray,
    weights: np.ndarray,
    gradient: np.ndarray,
    gradient_stride: int,
) -> None:  # pragma: no cover - compiled
    """Fill rows ``first`` to ``last`` of the gradient, for weights as in
    :mod:`klbench.kernels.autograd`.
    """
    for i in range(first, last):
        z = policy[i * policy_stride : i * policy_stride + size]
        y = reference[i * reference_stride : i * reference_stride + size]
        out = gradient[i * gradient_stride : i * gradient_stride + size]
        w = weights[i]
        if w[0] == ZERO and w[1] == ZERO and w[2] == ZERO and w[3] == ZERO and w[4] == ZERO:
            for j in range(size):
                out[j] = ZERO
        else:
            row = (F(found[i, 5]), F(found[i, 6]), F(found[i, 7]), F(found[i, 8]))
            _gradient(z, y, row, weights, i, out)
            out[tokens[i]] += w[4]
