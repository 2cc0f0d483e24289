"""The passes of the ``cpu`` kernel over rows, compiled by Numba, imported where first used."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types

from klbench.kernels.overlap_loops import BEST, LANES, SERIES, lead, leading, overlap
from klbench.kernels.sums import (
    ALIKE,
    DISTINCT,
    EXACT,
    UNDERFLOW,
    ZERO,
    alike,
    between,
    careful,
    distinct,
    exp,
    split,
)
from klbench.kernels.words import (
    ABSENT,
    FULL,
    IN,
    INFINITE,
    LOGITS,
    ROW,
    TABLE,
    TILE,
    TO_BITS,
    F,
    compiled,
    fill,
    finite,
    logit,
    narrow,
    ranges,
    tile,
    widened_ranges,
)

HALF = 0.5
NOTHING = (math.nan,) * 8
INDEX = types.Array(types.int64, 1, "C", readonly=True)
PLACES = types.Array(types.int64, 2, "C")
WEIGHTS = types.Array(types.float32, 2, "C", readonly=True)


@compiled((types.float32, types.float32))
def _origins(top_z: Any, top_y: Any) -> Any:  # pragma: no cover - compiled
    """Return the offsets of z and y.

    Their largest, the smaller of the two rounded until their difference is exact.
    """
    z, y = ZERO if top_z == ABSENT else top_z, ZERO if top_y == ABSENT else top_y
    s = y - z
    if not abs(s) < INFINITE:
        return z, y
    return (y - s, y) if abs(z) < abs(y) else (z, z + s)


ASKED = types.Tuple((types.boolean, types.float32, SERIES, types.boolean, types.boolean))
"""The options of a second look: total variation or not, ``beta`` or 0 and its series, the most
probable tokens of the policy or of the reference, and whether to look for them.
"""


@compiled(
    (
        *(LOGITS, LOGITS, types.int64, INDEX, types.int64, types.int64),
        *(ASKED, TABLE, TABLE, PLACES, TABLE, TABLE),
    )
)
def forward(
    policy: Any,
    reference: Any,
    size: int,
    tokens: np.ndarray,
    first: int,
    last: int,
    asked: Any,
    found: np.ndarray,
    second: np.ndarray,
    places: np.ndarray,
    log_q: np.ndarray,
    log_p: np.ndarray,
) -> None:  # pragma: no cover - compiled
    """Fill rows ``first`` to ``last`` of ``found``, whose columns :mod:`klbench.kernels.autograd`
    names, and those of a second look, unless they are empty.
    """
    wide_z, wide_y, filled_z, filled_y = (
        np.empty(TILE, F),
        np.empty(TILE, F),
        np.empty(TILE, F),
        np.empty(TILE, F),
    )
    keep = second.size > 0
    kept = size if keep else min(size, TILE)
    weight_z, weight_y = np.empty(kept, F), np.empty(kept, F)
    tiles = (size + TILE - 1) // TILE
    marks, groups, best = np.empty((tiles, 10)), np.empty(tiles * LANES, F), np.empty(BEST, F)
    variation, beta, series, by_policy, search = asked
    same = policy[2] == reference[2] != FULL
    for row in range(first, last):
        top_z, top_y, from_z, from_y = ABSENT, ABSENT, ZERO, ZERO
        q, p, qa, qg, pg, gap_q, gap_p, no_q, no_p = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0
        if search:
            best[:] = ABSENT
        for start in range(0, size, TILE):
            n = min(TILE, size - start)
            if same:
                found_ranges = widened_ranges(
                    policy, reference, row, size, start, start + n, wide_z, wide_y
                )
                tile_z, tile_y = wide_z[:n], wide_y[:n]
            else:
                tile_z = tile(policy, row, size, start, start + n, wide_z)
                tile_y = tile(reference, row, size, start, start + n, wide_y)
                found_ranges = ranges(tile_z, tile_y)
            had_z, had_y, was_z, was_y = top_z > ABSENT, top_y > ABSENT, from_z, from_y
            most_z, least_z, most_y, least_y, most_g, least_g = found_ranges
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
            at = start if keep else 0
            e, f = weight_z[at : at + n], weight_y[at : at + n]
            part, good, are_alike = NOTHING, False, False
            if least_z - from_z > UNDERFLOW and least_y - from_y > UNDERFLOW:
                if most_g - s < ALIKE and least_g - s > -ALIKE:
                    part, good = alike(tile_z, tile_y, from_z, from_y, e, f, keep), True
                    are_alike = True
                else:
                    part = distinct(tile_z, tile_y, from_z, from_y, e, f, keep)
                    enough = DISTINCT * (part[0] + part[1])
                    good = gap_q + part[5] > enough and gap_p + part[6] > enough
            if not (good and math.isfinite(part[2] + part[4])):
                no_z, no_y = fill(tile_z, tile_y, filled_z[:n], filled_y[:n])
                no_q += no_z
                no_p += no_y
                part = careful(filled_z[:n], filled_y[:n], from_z, from_y, e, f)
                are_alike = False
            at = start // TILE
            mark = marks[at]
            mark[0] = from_z if top_z > ABSENT else -np.inf  # all exponentials so far are 0
            mark[1] = from_y if top_y > ABSENT else -np.inf
            mark[2], mark[3], mark[4], mark[5] = are_alike, least_g, most_g, part[0]
            mark[6], mark[7], mark[8], mark[9] = part[1], part[2], part[7], most_z
            if search:
                mark[9] = most_z if by_policy else most_y
                lead(tile_z if by_policy else tile_y, at, groups, best)
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
        out[0] = (logit(policy, row, tokens[row]) - from_z) - math.log(q)
        out[1] = (logit(reference, row, tokens[row]) - from_y) - math.log(p)
        out[2] = kl_qp if no_p == 0 else np.inf + shift
        out[3] = kl_pq if no_q == 0 else np.inf + shift
        out[4] = math.log(q) - qa / q
        out[5], out[6], out[7], out[8] = from_z, from_y, math.log(q), shift
        if keep:
            if search:
                owner = policy if by_policy else reference
                leading(owner, row, size, groups, best, marks, places[row])
            for k in range(places.shape[1]):
                log_q[row, k] = logit(policy, row, places[row, k]) - (from_z + out[7])
                log_p[row, k] = logit(reference, row, places[row, k]) - (from_y + (out[7] + shift))
            ends = (out[5], out[6], out[7], out[8])
            of_row = (variation, beta, series, places[row], second[row])
            overlap(weight_z, weight_y, marks, ends, *of_row)


@compiled((IN, IN, types.UniTuple(types.float32, 4), WEIGHTS, types.int64, ROW), *EXACT)
def _gradient(
    z: np.ndarray, y: np.ndarray, row: tuple[float, ...], w: np.ndarray, k: int, out: np.ndarray
) -> None:  # pragma: no cover - compiled
    """``q (w0 u + w2 log q + w3) + w1 p``, with ``u = log q/p``."""
    from_z, from_y, log_sum, shift = row
    w0, w1, w2, w3 = w[k, 0], w[k, 1], w[k, 2], w[k, 3]
    to_z, of_y, rest = split(from_z, from_y)
    log_sum_p = log_sum + shift
    for i in range(z.size):
        z_i, y_i = finite(z[i]), finite(y[i])
        log_q = (z_i - from_z) - log_sum
        u = shift - between(z_i, y_i, to_z, of_y, rest)
        out[i] = exp(log_q) * ((w0 * u + w2 * log_q) + w3) + w1 * exp((y_i - from_y) - log_sum_p)


@compiled(
    (
        LOGITS,
        LOGITS,
        types.int64,
        INDEX,
        types.int64,
        types.int64,
        TABLE,
        WEIGHTS,
        TO_BITS,
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
            tile_z = tile(policy, i, size, start, stop, wide_z)
            tile_y = tile(reference, i, size, start, stop, wide_y)
            part = bits[words * start : words * stop]
            out = (
                part.view(np.float32)[: stop - start] if kind == FULL else wide_out[: stop - start]
            )
            _gradient(tile_z, tile_y, row, weights, i, out)
            if start <= tokens[i] < stop:
                out[tokens[i] - start] += w[4]
            if kind != FULL:
                narrow(out, kind, part)
