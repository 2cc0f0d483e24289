"""Statistics from sums, each with a standard error from the spread between groups."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from klbench.doctor.series import AT, Series

NAN = math.nan
FEWEST = 20
"""The fewest independent rollouts, or prompts, from which an error is taken."""
ENOUGH = 50
"""The fewest from which the interval of an effective sample size is taken."""
DOMINATED = 0.3
"""No interval is given where one rollout, or prompt, makes more than this share of the variance."""

DOMINATES = 0.5
"""The same for variances of logarithms, which one group may well make a third of."""

Function = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Number:
    """A value, its standard error, and its 95 % interval, which is NaN where none can be given."""

    value: float
    se: float = NAN
    low: float = NAN
    high: float = NAN

    @property
    def z(self) -> float:
        """Return the value in standard errors."""
        if self.se == 0.0 and self.value:
            return math.copysign(math.inf, self.value)
        return self.value / self.se if self.se > 0.0 else NAN

    def less(self, amount: float) -> Number:
        """Return the same, moved down."""
        return Number(self.value - amount, self.se, self.low - amount, self.high - amount)


def mean_of(name: str, per: str = "n", sign: float = 1.0) -> Function:
    """Return the function of sums that is the mean of one of them over tokens, or over rollouts."""
    return lambda sums: sign * sums[..., AT[name]] / sums[..., AT[per]]


def share_left(name: str, of: str) -> Function:
    """Return the share of the weight that a correction leaves, of tokens or of rollouts."""
    if of == "n":
        return lambda sums: sums[..., AT[name]] / (sums[..., AT["n"]] + sums[..., AT["excess"]])
    return lambda sums: sums[..., AT[name]] / sums[..., AT["w"]]


def ess_token(sums: np.ndarray) -> np.ndarray:
    """Return the effective sample size of tokens, as a share: (sum r)^2 / (n sum r^2)."""
    total = sums[..., AT["n"]] + sums[..., AT["excess"]]
    result: np.ndarray = total**2 / (sums[..., AT["n"]] * sums[..., AT["r2"]])
    return result


def ess_sequence(sums: np.ndarray) -> np.ndarray:
    """Return the same of whole rollouts."""
    result: np.ndarray = sums[..., AT["w"]] ** 2 / (sums[..., AT["rollouts"]] * sums[..., AT["w2"]])
    return result


def chi2_token(sums: np.ndarray) -> np.ndarray:
    """Return ``E[r^2] - 1`` over tokens: chi-squared of the numerator from the denominator."""
    result: np.ndarray = sums[..., AT["r2"]] / sums[..., AT["n"]] - 1.0
    return result


def chi2_sequence(sums: np.ndarray) -> np.ndarray:
    """Return the same over whole rollouts."""
    result: np.ndarray = sums[..., AT["w2"]] / sums[..., AT["rollouts"]] - 1.0
    return result


def clusters(series: Series) -> np.ndarray:
    """Return the sums of what is independent: prompts if they repeat, else rollouts."""
    by_prompt = series.prompts[series.prompts[:, 0] > 0]
    by_rollout = series.rollouts[series.rollouts[:, 0] > 0]
    repeated = len(by_prompt) < 0.9 * len(by_rollout)
    return by_prompt if repeated and len(by_prompt) >= FEWEST else by_rollout


def estimate(groups: np.ndarray, function: Function, most: float = DOMINATED) -> Number:
    """Return a function of the sums with its jackknife error, one group left out at a time.

    The interval has Student's quantile for the groups less one. (Efron and Stein 1981, "The
    jackknife estimate of variance".)
    """
    total = groups.sum(axis=0)
    with np.errstate(all="ignore"):
        value = float(function(total))
        count = len(groups)
        if count < 2 or not math.isfinite(value):
            return Number(value)
        left = function(total - groups)
        squares = (left - left.mean()) ** 2
        variance = float((count - 1) / count * squares.sum())
    if not math.isfinite(variance):
        return Number(value)
    se = math.sqrt(variance)
    if count < FEWEST or squares.max() > most * squares.sum():
        return Number(value, se)
    half = float(stdtrit(count - 1, 0.975)) * se
    return Number(value, se, value - half, value + half)


def size(groups: np.ndarray, function: Function, least: float) -> Number:
    """Return an effective sample size as a share ``s``, with an interval where it is above
    ``least``.

    The interval is that of ``log(1 / s - 1)``: ``1 / s - 1`` is the squared coefficient of
    variation of the weights, whose logarithm is nearly normal where it is small. So ends are
    between 0 and 1.
    """
    plain = estimate(groups, function)
    if not least < plain.value < 1.0 - 1e-12 or len(groups) < ENOUGH:
        return Number(plain.value, plain.se)
    spread = estimate(groups, lambda sums: np.log(1.0 / function(sums) - 1.0), DOMINATES)
    ends = [1.0 / (1.0 + math.exp(end)) for end in (spread.high, spread.low)]
    return Number(plain.value, plain.se, *ends)


def bare(number: Number) -> Number:
    """Return a number without its interval."""
    return Number(number.value, number.se)
