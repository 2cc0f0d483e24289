"""Loops over float64 that NumPy would make many passes for, compiled by Numba.

Formulas are elsewhere, on any array.

Importing this takes about a second: it is imported where it is first needed, never with the
package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types

FLOATS = types.Array(types.float64, 1, "C", readonly=True)  # takes writable arrays as well
RESULT = types.float64[::1]
INTEGERS = types.Array(types.int64, 1, "C", readonly=True)
STEPS = types.Array(types.int64, 2, "C", readonly=True)
COUNTS, ERRORS = types.int64[:, ::1], types.float64[:, ::1]
FAR = 700.0
"""Beyond this, exp comes near the end of its range."""
PIECE = 4_096
"""Terms summed at a time: the rounding of a sum grows with this, not with its length."""
# ln 2 in two parts: the first has few enough digits for its product with the exponent to be exact.
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
PER_LN2 = 1.0 / math.log(2.0)
ROUND = 1.5 * 2.0**52
"""A sum with it is rounded to an integer, which then stands in the last bits."""


def _compiled(signature: Any, *fast: str) -> Callable[[Callable[..., Any]], Any]:
    """Compile now, or load what an earlier process compiled.

    ``fast`` are the liberties that the sums may take.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        options: dict[str, Any] = {"fastmath": set(fast), "error_model": "numpy"}
        try:
            return njit(signature, cache=True, **options)(function)
        except (RuntimeError, OSError):  # nowhere to keep it
            return njit(signature, **options)(function)

    return decorate


@_compiled((FLOATS, types.UniTuple(types.float64, 11), RESULT, RESULT), "contract")
def expm1_and_gap(
    x: np.ndarray, c: tuple[float, ...], excess: np.ndarray, gap: np.ndarray
) -> None:  # pragma: no cover - compiled
    """``exp(x) - 1`` and ``exp(x) - 1 - x`` for any float, within 4 units in the last place.

    ``c`` are coefficients of ``(exp(r) - 1 - r) / r^2`` for ``|r| <= log(2) / 2``, highest power
    first.
    """
    far = 0
    for i in range(x.size):
        v = x[i]
        # exp(v) = s exp(r) with s = 2^k, whose bits are k + 1023 and 52 zeros
        rounded = np.float64(v * PER_LN2 + ROUND)
        k = rounded - ROUND
        s = np.int64((rounded.view(np.int64) + 1023) << 52).view(np.float64)
        r = (v - k * LN2_HIGH) - k * LN2_LOW
        p = c[0] * r + c[1]
        p = p * r + c[2]
        p = p * r + c[3]
        p = p * r + c[4]
        p = p * r + c[5]
        p = p * r + c[6]
        p = p * r + c[7]
        p = p * r + c[8]
        p = p * r + c[9]
        p = (p * r + c[10]) * r * r
        excess[i] = s * (p + r) + (s - 1.0)
        gap[i] = s * p + (
            (s - 1.0) * r + ((s - 1.0 - k * LN2_HIGH) - k * LN2_LOW)
        )  # p itself where k = 0
        far += not abs(v) <= FAR
    if far:  # NaN and infinities among them
        for i in range(x.size):
            if not abs(x[i]) <= FAR:
                excess[i] = math.exp(x[i]) - 1.0
                gap[i] = excess[i] - x[i]


@_compiled((FLOATS, FLOATS, RESULT))
def polynomial(
    c: np.ndarray, x: np.ndarray, out: np.ndarray
) -> None:  # pragma: no cover - compiled
    """The polynomial with coefficients ``c``, highest power first, rounded at every step."""
    for start in range(0, x.size, 512):  # what stays in the nearest cache
        part, total = x[start : start + 512], out[start : start + 512]
        for i in range(part.size):
            total[i] = c[0]
        for k in range(1, c.size):
            coefficient = c[k]
            for i in range(part.size):
                total[i] = total[i] * part[i] + coefficient


@_compiled((FLOATS, types.float64), "reassoc", "contract", "nsz")
def sums(x: np.ndarray, center: float) -> tuple[float, float]:  # pragma: no cover - compiled
    """Sum and sum of squares of ``x - center``."""
    total, squares = 0.0, 0.0
    for start in range(0, x.size, PIECE):
        part, part_squares = 0.0, 0.0
        for i in range(start, min(start + PIECE, x.size)):
            v = x[i] - center
            part += v
            part_squares += v * v
        total += part
        squares += part_squares
    return total, squares


@_compiled((FLOATS, types.int64, RESULT))
def _add_rows(x: np.ndarray, rows: int, out: np.ndarray) -> None:  # pragma: no cover - compiled
    """Return the sum of the rows that stand in ``x`` one after the other.

    Fours first, then halves onto halves.
    """
    n = out.size
    fours = rows // 4
    sums = np.empty(fours * n) if fours > 1 else out
    if fours:
        m = fours * n
        a, b, c, d = x[:m], x[m : 2 * m], x[2 * m : 3 * m], x[3 * m : 4 * m]
        for i in range(m):
            sums[i] = (a[i] + b[i]) + (c[i] + d[i])
    else:
        for i in range(n):  # a slice assigned to a slice takes seconds to compile
            sums[i] = x[i]
    for k in range(max(1, 4 * fours), rows):
        row = x[k * n : (k + 1) * n]
        for i in range(n):
            sums[i] += row[i]
    left = fours
    while left > 1:
        keep = (left + 1) // 2
        upper = sums[keep * n : left * n]
        for i in range(upper.size):
            sums[i] += upper[i]
        left = keep
    if fours > 1:
        for i in range(n):
            out[i] = sums[i]


@_compiled((FLOATS, STEPS, RESULT))
def fold(x: np.ndarray, steps: np.ndarray, out: np.ndarray) -> None:  # pragma: no cover - compiled
    """Sums of rows of ``x``, or of sums made before, in steps ``(again, start, rows, target, n)``.

    Each sums ``rows`` rows of ``n`` numbers, which begin at ``start`` of ``x``, or of ``out`` where
    ``again`` is set, into the ``n`` numbers of ``out`` at ``target``.
    """
    for k in range(len(steps)):
        again, start, rows, target, n = (
            steps[k, 0],
            steps[k, 1],
            steps[k, 2],
            steps[k, 3],
            steps[k, 4],
        )
        if again:
            _add_rows(out[start : start + rows * n], rows, out[target : target + n])
        else:
            _add_rows(x[start : start + rows * n], rows, out[target : target + n])


@_compiled((FLOATS, FLOATS, INTEGERS, types.float64, FLOATS, COUNTS, ERRORS))
def tally(
    estimates: np.ndarray,
    variances: np.ndarray,
    ends: np.ndarray,
    truth: float,
    limits: np.ndarray,
    counts: np.ndarray,
    errors: np.ndarray,
) -> None:  # pragma: no cover - compiled
    """Add batches to the counts of their sizes, as :func:`klbench.metrics.loops.tally` does."""
    start = 0
    for j in range(ends.size):
        negative, covered = 0, 0
        for i in range(start, ends[j]):
            error = estimates[i] - truth
            negative += estimates[i] < 0.0
            covered += error * error <= limits[j] * variances[i]
        first = start - counts[j, 0]
        for i in range(start, min(ends[j], first + errors.shape[1])):
            errors[j, i - first] = estimates[i] - truth
        counts[j, 0] += ends[j] - start
        counts[j, 1] += negative
        counts[j, 2] += covered
        start = ends[j]


@_compiled((FLOATS, types.float64, STEPS, FLOATS, INTEGERS, types.float64, FLOATS, COUNTS, ERRORS))
def tally_means(
    terms: np.ndarray,
    center: float,
    steps: np.ndarray,
    size: np.ndarray,
    ends: np.ndarray,
    truth: float,
    limits: np.ndarray,
    counts: np.ndarray,
    errors: np.ndarray,
) -> None:  # pragma: no cover - compiled
    """Form the means of batches and add them to the counts, as
    :func:`klbench.metrics.loops.tally_means` does.
    """
    centered, squared = np.empty(terms.size), np.empty(terms.size)
    for i in range(terms.size):
        v = terms[i] - center
        centered[i], squared[i] = v, v * v
    means, variances = np.empty(size.size), np.empty(size.size)
    fold(centered, steps, means)
    fold(squared, steps, variances)
    for i in range(size.size):
        mean = means[i] / size[i]
        variances[i] = (variances[i] - means[i] * mean) / (size[i] * (size[i] - 1.0))
        means[i] = mean + center
    tally(means, variances, ends, truth, limits, counts, errors)
