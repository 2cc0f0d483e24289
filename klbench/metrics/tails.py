"""The weight of a ratio's upper tail, Pareto k-hat, and whether a ratio's mean is 1."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import logsumexp

HEAVY = 0.5
"""At a k of 0.5 and above the variance is infinite."""

HOLDS, FAILS, CANNOT_TELL = "holds", "fails", "cannot tell"
STRANGE, ROUNDING = 5.0, 1e-9
"""A mean is not 1 if it is off by so many standard errors, and by more than sums round."""
ENOUGH_ROLLOUTS, ENOUGH_TERMS = 30, 100.0
"""The least numbers of rollouts, and of terms that carry the mean, at which a standard error
means something.
"""


def unit_mean(excess: float, se: float, *, ess: float, khat: float, rollouts: int) -> str:
    """Return whether a ratio's mean is 1, as one of the three words.

    The mean is 1 over samples of the ratio's denominator if these reach everywhere.

    Parameters
    ----------
    excess, se
        The mean of ``r - 1`` and its standard error, over ``rollouts`` that are independent.
    ess, khat
        Effective sample size ``(sum r)^2 / sum r^2``, and Pareto k; NaN where the tail ends in an
        atom.
    """
    known = (
        math.isfinite(excess)
        and math.isfinite(se)
        and ess > ENOUGH_TERMS
        and rollouts >= ENOUGH_ROLLOUTS
    )
    if not known or khat >= HEAVY:
        return CANNOT_TELL
    return FAILS if abs(excess) > max(STRANGE * se, ROUNDING) else HOLDS


def pareto_khat(log_ratio: np.ndarray) -> tuple[float, float]:
    """k-hat of the upper tail of ``exp(log_ratio)`` and its standard error, from the ``3 sqrt(n)``
    largest values.

    Parameters
    ----------
    log_ratio
        ``(n,)``, finite.

    Returns ------- ``(nan, nan)`` for fewer than 100 samples or where the largest values are all
    one (a tail that ends in an atom). The standard error is the asymptotic ``(1 + k) / sqrt(tail
    size)``, which leaves out the bias of a finite threshold.
    """
    n = log_ratio.size
    size = 3 * math.sqrt(n) if n > 225 else n / 5
    if n < 100 or not np.isfinite(log_ratio).all():
        return math.nan, math.nan
    beyond = n - int(size) - 1
    largest = np.sort(np.partition(log_ratio, beyond)[beyond:])
    if largest[-1] - largest[0] < 1e-12:
        return math.nan, math.nan
    ratio = np.exp(largest - largest[-1])
    with np.errstate(all="ignore"):
        khat = _shape(ratio[1:] - ratio[0])
    if not math.isfinite(khat):
        return math.nan, math.nan
    return khat, (1.0 + max(khat, 0.0)) / math.sqrt(math.ceil(size))


def _shape(excess: np.ndarray) -> float:
    """Return the shape of the generalised Pareto distribution of ``excess``, sorted, ``(n,)``.

    The posterior mean over a grid of scales (Zhang and Stephens 2009, "A new and efficient
    estimation method for the generalized Pareto distribution"), drawn towards 0.5 with the weight
    of ten observations (Vehtari et al. 2024, "Pareto smoothed importance sampling", appendix C).
    """
    n = excess.size
    size = 30 + int(n**0.5)
    scales = 1 - np.sqrt(size / (np.arange(1, size + 1) - 0.5))
    scales /= 3 * excess[int(n / 4 + 0.5) - 1]
    scales += 1 / excess[-1]
    shapes = np.mean(np.log1p(-scales[:, None] * excess), axis=1)
    log_likelihood = n * (np.log(-scales / shapes) - shapes - 1)
    weights = np.exp(log_likelihood - logsumexp(log_likelihood))
    kept = weights >= 10 * np.finfo(float).eps
    scale = np.sum(scales[kept] * (weights[kept] / weights[kept].sum()))
    shape = np.mean(np.log1p(-scale * excess))
    return float((n * shape + 10 * 0.5) / (n + 10))
