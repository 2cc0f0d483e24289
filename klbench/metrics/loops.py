"""Sums and counts over float64, compiled where an array is long enough to be worth it.

Numba takes longer to load than a short run takes in all.
"""

from __future__ import annotations

from functools import cache
from itertools import count, pairwise
from types import ModuleType

import numpy as np

from klbench.numerics import WORTH_COMPILING

MANY = 10_000
"""Calls on short arrays that take as long as Numba takes to load."""
_short = count()


@cache
def _compiled() -> ModuleType:
    from klbench import compiled

    return compiled


def _worth_compiling(x: np.ndarray) -> bool:
    """Tell where an array is long, or many short ones went before: for what has the same bits in
    both ways.
    """
    return x.size >= WORTH_COMPILING or next(_short) >= MANY


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
    if _worth_compiling(x):
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
    estimates: np.ndarray,
    variances: np.ndarray,
    ends: np.ndarray,
    truth: float,
    limits: np.ndarray,
    counts: np.ndarray,
    errors: np.ndarray,
) -> None:
    """Add batches to the counts of their sizes, one row a size.

    A row of ``counts`` holds all batches, those with a negative estimate, and those whose squared
    error is within ``limits`` times their variance; a row of ``errors`` the first errors. The
    batches of each size stand side by side, up to its entry of ``ends``.
    """
    if _worth_compiling(estimates):
        _compiled().tally(estimates, variances, ends, truth, limits, counts, errors)
        return
    with np.errstate(all="ignore"):
        error = estimates - truth
        for j, (start, end) in enumerate(pairwise((0, *ends.tolist()))):
            part, kept = slice(start, end), int(counts[j, 0])
            more = error[part][: max(0, errors.shape[1] - kept)]
            errors[j, kept : kept + more.size] = more
            covered = error[part] * error[part] <= limits[j] * variances[part]
            counts[j] += end - start, (estimates[part] < 0.0).sum(), covered.sum()


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
) -> None:
    """Form the means of batches of terms, folded by ``steps``, and their squared standard errors,
    and :func:`tally` them.

    Sums are of the terms' distances from ``center``.
    """
    if _worth_compiling(terms):
        _compiled().tally_means(terms, center, steps, size, ends, truth, limits, counts, errors)
        return
    with np.errstate(all="ignore"):
        centered = terms - center
        total, squares = np.empty_like(size), np.empty_like(size)
        fold(centered, steps, total)
        fold(centered * centered, steps, squares)
        means = total / size
        variances = (squares - total * means) / (size * (size - 1.0))
    tally(means + center, variances, ends, truth, limits, counts, errors)
