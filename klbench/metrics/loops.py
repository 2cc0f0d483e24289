"""Sums and counts over float64, compiled where an array is long enough to be worth it.

Numba takes longer to load than a short run takes in all.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from klbench.numerics import WORTH_COMPILING


def _compiled() -> ModuleType:
    from klbench import compiled

    return compiled


def sums(x: np.ndarray, center: float) -> tuple[float, float]:
    """Sum and sum of squares of ``x - center``, ``x`` of shape ``(n,)``."""
    if x.size >= WORTH_COMPILING:
        total, squares = _compiled().sums(x, center)
        return float(total), float(squares)
    with np.errstate(all="ignore"):  # compiled loops say nothing either
        v = x - center
        return float(np.sum(v)), float(np.sum(v * v))


def fold(x: np.ndarray, steps: np.ndarray, out: np.ndarray) -> None:
    """Sums of rows of ``x``, or of sums made before, as :func:`klbench.compiled.fold` has them.

    To the same bits in both ways.
    """
    if x.size >= WORTH_COMPILING:
        _compiled().fold(x, steps, out)
        return
    for again, start, rows, target, n in steps.tolist():
        source = out if again else x
        _add_rows(source[start : start + rows * n].reshape(rows, n), out[target : target + n])


def _add_rows(x: np.ndarray, out: np.ndarray) -> None:
    """Sum of the rows: fours first, then halves onto halves."""
    left = max(1, len(x) // 4)
    whole = 4 * left if len(x) >= 4 else 1
    a = x[:whole].reshape(-1, left, x.shape[1])
    total = (a[0] + a[1]) + (a[2] + a[3]) if len(a) == 4 else a[0].copy()
    for row in x[whole:]:
        total[0] += row
    while left > 1:
        keep = (left + 1) // 2
        total[: left - keep] += total[keep:left]
        left = keep
    out[:] = total[0]


def tally(
    estimates: np.ndarray, variances: np.ndarray, truth: float, limit: float
) -> tuple[int, int]:
    """Count the negative estimates, and those whose squared error is within ``limit`` times
    their variance.
    """
    if estimates.size >= WORTH_COMPILING:
        negative, covered = _compiled().tally(estimates, variances, truth, limit)
        return int(negative), int(covered)
    with np.errstate(all="ignore"):
        error = estimates - truth
        covered = np.count_nonzero(error * error <= limit * variances)
    return int(np.count_nonzero(estimates < 0.0)), int(covered)
