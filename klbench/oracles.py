"""Exact expectations: quadrature, enumeration, and closed forms through the moment function ``M(s) = E_q[r^s]``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from klbench.types import Polynomial, Truth

EPS = float(np.finfo(np.float64).eps)
LARGEST = math.log(np.finfo(np.float64).max)
"""The largest exponent whose exponential is a float."""
Method = Literal["closed-form", "quadrature", "enumeration"]
Series = Callable[[float, int], list[float] | None]
"""``series(s, order)``: the Taylor coefficients of ``log M`` at ``s``, or None where ``M(s)`` is infinite."""


@dataclass(frozen=True)
class ExactMoments:
    """Mean and standard deviation of an estimator's term over the sampling distribution, each with a bound on its error."""

    mean: float
    mean_error: float
    std: float
    std_error: float
    method: Method


def closed_form(value: float, operations: int = 16) -> Truth:
    """A divergence in closed form, trusted to ``operations`` roundings of its value and to a few of its parameters.

    Near zero a divergence is quadratic in the difference of the parameters, so that their rounding counts with its root.
    """
    error = 0.0 if math.isinf(value) else EPS * (operations * abs(value) + 4.0 * math.sqrt(abs(value)))
    return Truth(float(value), error, "closed-form")


def integrate(
    function: Callable[[np.ndarray], np.ndarray],
    lower: float,
    upper: float,
    *,
    points: Sequence[float] = (),
    center: float = 0.0,
    scale: float = 1.0,
    rtol: float = 1e-11,
) -> tuple[np.ndarray, np.ndarray]:
    """Integrals of a vector-valued function of one variable, by adaptive Gauss-Kronrod (``scipy.integrate.cubature``).

    Parameters
    ----------
    function
        ``(n,)`` points to ``(m, n)`` values.
    lower, upper
        Limits, infinite ones allowed.
    points
        Where the function has kinks or where its mass sits: the interval is cut there.
    center, scale
        Of the mass, so that an infinite interval is mapped where the function lives.

    Returns
    -------
    The values and the rule's error estimates, both ``(m,)``.
    """
    from scipy.integrate import cubature

    def standardized(u: np.ndarray, sign: float = 1.0) -> np.ndarray:
        with np.errstate(all="ignore"):
            return scale * function(center + sign * scale * u[:, 0]).T

    cuts = sorted({(x - center) / scale for x in points if lower < x < upper})
    edges = [(lower - center) / scale, *cuts, (upper - center) / scale]
    # Overflow inside a piece is seen in the result, which is then not finite.
    pieces = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for a, b in pairwise(edges):
            # SciPy 1.17's cubature takes (-inf, b) for (-b, inf) without changing the sign of x: mirror it here.
            sign = -1.0 if math.isinf(a) and math.isfinite(b) else 1.0
            low, high = (a, b) if sign > 0 else (-b, -a)
            pieces.append(
                cubature(standardized, [low], [high], rule="gk21", rtol=rtol, atol=1e-14, max_subdivisions=2000, args=(sign,))
            )
    values = np.sum([piece.estimate for piece in pieces], axis=0)
    errors = np.sum([piece.error for piece in pieces], axis=0)
    return values, errors + 8 * EPS * np.abs(values)


def expectation(
    log_density: Callable[[np.ndarray], np.ndarray],
    terms: Callable[[np.ndarray], np.ndarray],
    lower: float,
    upper: float,
    *,
    points: Sequence[float],
    center: float = 0.0,
    scale: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Expectations of ``terms`` (``(n,)`` points to ``(m, n)`` values) over a density; the rest as in :func:`integrate`."""

    def integrand(x: np.ndarray) -> np.ndarray:
        values = terms(x)
        log_weight = log_density(x)
        # In log space, since far out the density underflows long before its product with a growing term does.
        product = np.sign(values) * np.exp(log_weight + np.log(np.abs(values)))
        # Where the term itself overflows, the product is negligible if the expectation exists at all.
        return np.where(~np.isfinite(values) & (log_weight < -300.0), 0.0, product)

    return integrate(integrand, lower, upper, points=points, center=center, scale=scale)


def exp_series(coefficients: Sequence[float]) -> list[float]:
    """Taylor coefficients of ``exp(g)`` from those of ``g``: ``h' = g' h``, term by term."""
    if coefficients[0] > LARGEST:
        return [math.inf] * len(coefficients)
    result = [math.exp(coefficients[0])]
    for k in range(1, len(coefficients)):
        result.append(sum(j * coefficients[j] * result[k - j] for j in range(1, k + 1)) / k)
    return result


def _power_moment(series: Series, a: float, b: int) -> float:
    """``E_q[r^a (log r)^b]``, the b-th derivative of M at a; inf where it diverges."""
    coefficients = series(a, b)
    if coefficients is None:
        return math.inf
    return exp_series(coefficients)[b] * math.factorial(b)


def polynomial_moments(polynomial: Polynomial, series: Series) -> ExactMoments:
    """Exact mean and standard deviation of ``sum c r^a (log r)^b`` from ``log M``.

    The terms cancel where r is near 1, and the error bound says by how much.
    """
    polynomial = tuple(part for part in polynomial if part[0])  # 0 times an infinite moment is 0
    first = [c * _power_moment(series, a, b) for c, a, b in polynomial]
    second = [c * d * _power_moment(series, a + e, b + f) for c, a, b in polynomial for d, e, f in polynomial]
    mean, mean_error = (math.fsum(first), 8 * EPS * sum(map(abs, first))) if all(map(math.isfinite, first)) else (math.inf, 0.0)
    if not all(map(math.isfinite, second)):
        return ExactMoments(mean, mean_error, math.inf, 0.0, "closed-form")
    variance = math.fsum([*second, -mean * mean])
    variance_error = 16 * EPS * (sum(map(abs, second)) + mean * mean)
    std = math.sqrt(max(variance, 0.0))
    return ExactMoments(
        mean, mean_error, std, variance_error / (2 * std) if std > 0 else math.sqrt(variance_error), "closed-form"
    )


def enumerate_moments(probabilities: np.ndarray, terms: np.ndarray) -> ExactMoments:
    """Exact mean and standard deviation of terms with given probabilities, both ``(n,)``."""
    mean = math.fsum(probabilities * terms)
    variance = math.fsum(probabilities * (terms - mean) ** 2)
    error = 8 * EPS * math.fsum(probabilities * np.abs(terms))
    return ExactMoments(mean, error, math.sqrt(variance), 8 * EPS * math.sqrt(variance) + error, "enumeration")
