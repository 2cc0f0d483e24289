"""How heavy the upper tail of a ratio is: Pareto k-hat. (Vehtari et al. 2024, "Pareto smoothed importance sampling".)"""

from __future__ import annotations

import math
import warnings

import numpy as np

HEAVY = 0.5
"""At a k of 0.5 and above the variance is infinite."""


def pareto_khat(log_ratio: np.ndarray) -> tuple[float, float]:
    """k-hat of the upper tail of ``exp(log_ratio)`` and its standard error, from the ``3 sqrt(n)`` largest values.

    Parameters
    ----------
    log_ratio
        ``(n,)``, finite.

    Returns
    -------
    ``(nan, nan)`` for fewer than 100 samples or where the largest values are all one (a tail that ends in an atom). The
    standard error is the asymptotic ``(1 + k) / sqrt(tail size)``, which leaves out the bias of a finite threshold.
    """
    from arviz_stats.base.array import array_stats

    n = log_ratio.size
    tail = min(math.ceil(0.2 * n), math.ceil(3 * math.sqrt(n)))
    if n < 100 or not np.isfinite(log_ratio).all():
        return math.nan, math.nan
    largest = np.partition(log_ratio, n - tail - 1)[n - tail - 1 :]
    if largest.max() - largest.min() < 1e-12:
        return math.nan, math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        khat = float(array_stats.psislw(-log_ratio)[1])  # psislw negates its input
    if not math.isfinite(khat):
        return math.nan, math.nan
    return khat, (1.0 + max(khat, 0.0)) / math.sqrt(tail)
