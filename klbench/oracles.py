"""Exact expectations.

Quadrature, enumeration, and closed forms through the moment function ``M(s) = E_q[r^s]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from klbench.log_terms import log_terms
from klbench.types import Draws, Estimator, Polynomial, Truth

EPS = float(np.finfo(np.float64).eps)
LARGEST = math.log(np.finfo(np.float64).max)
"""The largest exponent whose exponential is a float."""
Method = Literal["closed-form", "quadrature", "enumeration"]
Series = Callable[[float, int], tuple[list[float], list[float]] | None]
"""``series(s, order)``.

Taylor coefficients of ``log M`` at ``s``, and bounds on their errors beyond rounding.

None where ``M(s)`` is infinite.
"""


@dataclass(frozen=True)
class ExactMoments:
    """Mean and standard deviation of an estimator's term over the sampling distribution, each
    with a bound on its error.
    """

    mean: float
    mean_error: float
    std: float
    std_error: float
    method: Method


def closed_form(value: float, operations: int = 16) -> Truth:
    """A divergence in closed form, trusted to ``operations`` roundings of its value and to a few of
    its parameters.

    Near zero a divergence is quadratic in the difference of the parameters, so that their rounding
    counts with its root.
    """
    error = (
        0.0 if math.isinf(value) else EPS * (operations * abs(value) + 4.0 * math.sqrt(abs(value)))
    )
    return Truth(float(value), error, "closed-form")


def exp_series(coefficients: Sequence[float]) -> list[float]:
    """Taylor coefficients of ``exp(g)`` from those of ``g``: ``h' = g' h``, term by term."""
    if coefficients[0] > LARGEST:
        return [math.inf] * len(coefficients)
    result = [math.exp(coefficients[0])]
    for k in range(1, len(coefficients)):
        result.append(sum(j * coefficients[j] * result[k - j] for j in range(1, k + 1)) / k)
    return result


def _power_moment(series: Series, a: float, b: int) -> tuple[float, float]:
    """Return ``E_q[r^a (log r)^b]``, the b-th derivative of M at a, and a bound on its error.

    Inf where it diverges.
    """
    known = series(a, b)
    if known is None:
        return math.inf, 0.0
    coefficients, margins = known
    moments = exp_series(coefficients)
    # The derivative of the k-th coefficient of exp(g) by the j-th one of g is the (k-j)-th one of
    # exp(g).
    off = sum(margin * abs(moments[b - j]) for j, margin in enumerate(margins))
    return moments[b] * math.factorial(b), (8 * EPS * abs(moments[b]) + off) * math.factorial(b)


def polynomial_moments(polynomial: Polynomial, series: Series) -> ExactMoments:
    """Exact mean and standard deviation of ``sum c r^a (log r)^b`` from ``log M``.

    The terms cancel where r is near 1, and the error bound says by how much.
    """
    polynomial = tuple(part for part in polynomial if part[0])  # 0 times an infinite moment is 0
    mean, mean_error = _combined([(c, *_power_moment(series, a, b)) for c, a, b in polynomial])
    second, second_error = _combined(
        [
            (c * d, *_power_moment(series, a + e, b + f))
            for c, a, b in polynomial
            for d, e, f in polynomial
        ]
    )
    if not math.isfinite(second):
        return ExactMoments(mean, mean_error, math.inf, 0.0, "closed-form")
    variance = second - mean * mean
    error = second_error + 2.0 * abs(mean) * mean_error + 8 * EPS * mean * mean
    std = math.sqrt(max(variance, 0.0))
    # Off by e, a variance v has a root that is off by e/sqrt(v) at most, and by sqrt(e) however
    # small v is.
    return ExactMoments(
        mean,
        mean_error,
        std,
        min(error / std if std else math.inf, math.sqrt(error)),
        "closed-form",
    )


def _combined(parts: list[tuple[float, float, float]]) -> tuple[float, float]:
    """Return the sum of coefficients times moments, and a bound on its error.

    Inf where one of them is.
    """
    if not all(
        math.isfinite(c * moment) and math.isfinite(c * error) for c, moment, error in parts
    ):
        return math.inf, 0.0
    return math.fsum(c * moment for c, moment, _ in parts), math.fsum(
        abs(c) * error for c, _, error in parts
    )


def enumerate_moments(probabilities: np.ndarray, terms: np.ndarray) -> ExactMoments:
    """Exact mean and standard deviation of terms with given probabilities, both ``(n,)``."""
    mean = math.fsum(probabilities * terms)
    variance = math.fsum(probabilities * (terms - mean) ** 2)
    error = 8 * EPS * math.fsum(probabilities * np.abs(terms))
    return ExactMoments(
        mean, error, math.sqrt(variance), 8 * EPS * math.sqrt(variance) + error, "enumeration"
    )


def enumerated(estimator: Estimator, draws: Draws, log_probabilities: np.ndarray) -> ExactMoments:
    """Return the exact moments of an estimator's terms over finitely many draws, those that
    overflow weighed in log space.
    """
    with np.errstate(all="ignore"):
        terms = estimator.formula(draws)
    far = ~np.isfinite(terms) & np.isfinite(draws.log_ratio)
    if not far.any():
        return enumerate_moments(np.exp(log_probabilities), terms)
    sign, size, doubtful = log_terms(estimator, draws)
    near, logs = np.exp(log_probabilities[~far]), log_probabilities[far]
    with np.errstate(over="ignore"):
        parts = np.concatenate([near * terms[~far], sign[far] * np.exp(size[far] + logs)])
        mean = float(np.sum(parts)) if np.isinf(parts).any() else math.fsum(parts)
        if doubtful.any() or not math.isfinite(mean):
            return ExactMoments(
                math.inf if math.isnan(mean) else mean, math.inf, math.inf, math.inf, "enumeration"
            )
        roundings = (
            8 * EPS * np.concatenate([np.ones(near.size), 1.0 + np.abs(size[far]) + np.abs(logs)])
        )
        # Beside a term beyond a float the mean is nothing.
        roots = np.concatenate(
            [np.sqrt(near) * np.abs(terms[~far] - mean), np.exp(size[far] + 0.5 * logs)]
        )
        std, error = float(np.hypot.reduce(roots)), math.fsum(np.abs(parts) * roundings)
        std_error = std * float(roundings.max()) + error if math.isfinite(std) else math.inf
    return ExactMoments(mean, error, std, std_error, "enumeration")
