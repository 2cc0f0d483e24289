"""Statistics over seeds: means, differences and shares of the same seeds, each with a 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from klbench import streams

if TYPE_CHECKING:
    import pandas as pd

Z95 = 1.959963984540054
"""Standard errors of a 95 % interval where a mean has many terms."""
RESAMPLES = 9_999
FEW = 8
"""With fewer values the means of resamples do not range as far as an interval has to."""


def interval(values: np.ndarray, *names: str | int) -> tuple[float, float]:
    """A 95 % interval of the mean over seeds: bias-corrected, accelerated bootstrap, of a level raised for their number.

    Resampling n values spreads by 1/n where the variance wants 1/(n-1), and by the normal distribution where Student's t is
    due: at the level ``2 Phi(sqrt(n/(n-1)) t(0.975, n-1)) - 1`` it is as wide as the t interval, where values are normal, and
    leans to where they are skewed (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", on the expanded percentile
    interval; Efron 1987). Below 8 values resamples range less far, and the interval is Student's t. By simulation it covers
    a normal mean in 95.0 % with 4 values, 93.8 % with 8 and 94.9 % with 16, an exponential one in 88 %, 91 % and 93 %. It may
    pass a bound that the values have. NaN: of one value, or of any that is not finite.
    """
    from scipy.stats import bootstrap, norm, t

    n = len(values)
    if n < 2 or not np.isfinite(values).all():
        return math.nan, math.nan
    if np.ptp(values) <= 1e-12 * np.abs(values).max():  # nothing to resample
        return float(values.mean()), float(values.mean())
    quantile = float(t.ppf(0.975, n - 1))
    if n < FEW:
        half = quantile * float(values.std(ddof=1)) / math.sqrt(n)
        return float(values.mean()) - half, float(values.mean()) + half
    level = 2.0 * float(norm.cdf(math.sqrt(n / (n - 1)) * quantile)) - 1.0
    found = bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=level, method="BCa",
        rng=streams.generator(0, "bootstrap", *names),
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def mean(values: np.ndarray) -> float:
    """The mean; NaN of nothing, as where all seeds diverged."""
    return float(values.mean()) if len(values) else math.nan


def summarized(name: str, values: np.ndarray, *names: str | int) -> dict[str, float]:
    """Mean and interval under ``name``, ``name_low`` and ``name_high``."""
    low, high = interval(values, name, *names)
    return {name: mean(values), f"{name}_low": low, f"{name}_high": high}


def differences(values: pd.Series[float], others: pd.Series[float]) -> np.ndarray:
    """``values - others`` of the seeds that both have, in the seeds' order; both are indexed by the seed."""
    found: np.ndarray = (values - others).dropna().sort_index().to_numpy(dtype=float)
    return found


def paired(name: str, values: pd.Series[float], others: pd.Series[float], *names: str | int) -> dict[str, float]:
    """Mean of ``values - others`` seed by seed, with its interval, and under ``name_seeds`` how many seeds both have.

    What is said of an arm against its start, a floor or another arm follows from this: draws of reference, reward and samples
    move both alike, so that two means which differ less than either of them varies may yet be told apart, or the reverse.
    """
    found = differences(values, others)
    return summarized(name, found, *names) | {f"{name}_seeds": len(found)}


def effect(values: pd.Series[float], others: pd.Series[float]) -> float:
    """Mean over standard deviation of the paired differences (Cohen's d_z)."""
    found = differences(values, others)
    spread = float(found.std(ddof=1)) if len(found) > 1 else math.nan
    return mean(found) / spread if spread > 0 else math.nan


def share(name: str, part: pd.Series[float], whole: pd.Series[float], *names: str | int) -> dict[str, float]:
    """``mean(part) / mean(whole)`` over the seeds that both have, with an interval, and ``name_seeds``.

    The interval is that of the mean of ``s + (part - s whole) / mean(whole)``, ``s`` being the share: to first order in how far
    the means stray, what the ratio is. NaN where the mean whole is 0. (Cochran 1977, "Sampling techniques", section 6.3.)
    """
    both = part.sort_index().to_frame("part").join(whole.rename("whole"), how="inner").dropna()
    top, bottom = both["part"].to_numpy(dtype=float), both["whole"].to_numpy(dtype=float)
    base = mean(bottom)
    values = np.full(1, math.nan)
    if base:
        found = mean(top) / base
        values = found + (top - found * bottom) / base
    return summarized(name, values, *names) | {f"{name}_seeds": len(both)}


Side = Literal[-1, 0, 1]


def side(row: Mapping[str, Any], name: str, of: float = 0.0) -> Side | None:
    """Return the side of ``of`` on which the whole interval of ``name`` lies, -1 or 1; 0 for both; None without an interval."""
    low, high = (row.get(f"{name}_{end}", math.nan) for end in ("low", "high"))
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    return 1 if low > of else -1 if high < of else 0


def told(row: Mapping[str, Any], name: str, below: str, between: str, above: str, of: float = 0.0) -> str:
    """Return the word for that side, or that there are too few seeds."""
    words: dict[Side | None, str] = {-1: below, 0: between, 1: above}
    return words.get(side(row, name, of), "too few seeds to tell")
