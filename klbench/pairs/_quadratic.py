"""The log-ratio of two Gaussians in the coordinates in which it is a sum over coordinates, and
how sure that form is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from klbench.oracles import EPS

LOG_ROOT_2PI = 0.5 * math.log(2.0 * math.pi)
ORDERS = 7
"""Taylor coefficients kept: the second moment of a term with ``(log r)^3`` takes as many."""


@dataclass(frozen=True)
class Bell:
    """A normal density of one dimension."""

    mean: float
    std: float
    lower: ClassVar[float] = -math.inf

    @property
    def modes(self) -> tuple[tuple[float, float], ...]:
        return ((self.mean, self.std),)

    def log_density(self, x: np.ndarray) -> np.ndarray:
        z = (x - self.mean) / self.std
        return -0.5 * z * z - (LOG_ROOT_2PI + math.log(self.std))

    def shifted(self, by: float) -> Bell:
        return Bell(self.mean + by, self.std)


def solved(factor: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return ``factor^-1 right`` for a lower triangular factor."""
    from scipy.linalg import solve_triangular

    result: np.ndarray = solve_triangular(factor, right, lower=True)
    return result


def _condition(factor: np.ndarray) -> float:
    """Return the condition number of a covariance with this Cholesky factor, of its
    correlations: scales cost no digits.
    """
    singular = np.linalg.svd(
        factor / np.linalg.norm(factor, axis=1, keepdims=True), compute_uv=False
    )
    return float((singular[0] / singular[-1]) ** 2)


class Quadratic:
    """The log-ratio in the coordinates of ``z ~ N(0, I)``, ``x = mean_q + L z``, where both
    covariances are diagonal.

    ``log r = constant + sum(slope z + curvature z^2 / 2)``. Coordinates that do not matter are left
    out, and all those without curvature become one, so that a shift in any dimension needs one
    normal a sample.

    Attributes
    ----------
    variances, shift
        Of p along each axis, in units of q's standard deviation.
    uncertainty
        Relative error of the variances and of squared shifts: rounding, times the condition of the
        covariances, since a relative change of eps in either moves them by no more than that
        (Demmel and Veselic 1992, theorem 2.3).
    """

    def __init__(self, q: tuple[np.ndarray, np.ndarray], p: tuple[np.ndarray, np.ndarray]) -> None:
        of_q, of_p = np.linalg.cholesky(q[1]), np.linalg.cholesky(p[1])
        axes, stds, _ = np.linalg.svd(solved(of_q, of_p))
        axes, self.variances = axes[:, ::-1], stds[::-1] ** 2
        axes = axes * np.sign(axes[np.argmax(np.abs(axes), axis=0), np.arange(len(stds))])
        self.shift = axes.T @ solved(of_q, p[0] - q[0])
        self.uncertainty = 8 * EPS * len(stds) * (_condition(of_q) + _condition(of_p))
        same = np.abs(np.log(self.variances)) <= self.uncertainty
        self.variances[same] = 1.0
        bent = ~same
        flat_shift = float(np.linalg.norm(self.shift[same]))
        has_flat = [flat_shift] if flat_shift > 0.0 else []
        # Per active coordinate: variance of p, shift of p.
        self.active = (
            np.array([*self.variances[bent], *([1.0] * len(has_flat))]),
            np.array([*self.shift[bent], *has_flat]),
        )
        v, m = self.active
        self.curvature = 1.0 - 1.0 / v
        self.slope = m / v
        self.constant = float(-0.5 * np.sum(m * m / v + np.log(v)))
        self._known: dict[float, tuple[list[float], list[float]] | None] = {}

    @property
    def size(self) -> int:
        return len(self.curvature)

    def log_ratio(self, z: np.ndarray) -> np.ndarray:
        """``(size, n)`` to ``(n,)``; works in ``z`` itself, which is used up."""
        if not len(z):
            return np.zeros(z.shape[-1])
        for row, slope, curvature in zip(z, self.slope, self.curvature, strict=True):
            if curvature:
                part = row * (0.5 * curvature)
                part += slope
                row *= part
            else:
                row *= slope
        total: np.ndarray = z[0]
        for row in z[1:]:
            total += row
        total += self.constant
        return total

    def margin(self, parts: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        """Return how far a sum over coordinates can be off by what is uncertain about these.

        ``parts`` maps variances and shifts of p, ``(d,)``, to the coordinates' parts of the sum,
        ``(..., d)``.
        """
        v, m = self.variances, self.shift
        spread = math.exp(self.uncertainty) if self.uncertainty < 1.0 else math.inf
        with np.errstate(all="ignore"):
            moved = [
                parts(v * a, m * b)
                for a in (spread, 1.0 / spread)
                for b in (math.sqrt(spread), math.sqrt(1.0 / spread))
            ]
            off: np.ndarray = np.max(np.abs(np.array(moved) - parts(v, m)), axis=0).sum(axis=-1)
        return np.where(np.isnan(off), math.inf, off)

    def series(self, s: float, order: int) -> tuple[list[float], list[float]] | None:
        """Taylor coefficients of ``log M`` at ``s``, and how far each can be off.

        None where ``M(s)`` is infinite.

        ``M(s)`` is the product over coordinates of ``a^-1/2 v^-s/2 exp(-m^2 s(1-s) / (2 v a))``,
        ``a = 1 + s(1/v - 1)``.
        """
        if s not in self._known:
            finite = np.all(1.0 + s * (1.0 / self.active[0] - 1.0) > 0.0)
            parts = partial(_series_parts, s=s)
            with np.errstate(invalid="ignore"):
                value = parts(*self.active).sum(axis=-1)
            self._known[s] = (value.tolist(), self.margin(parts).tolist()) if finite else None
        known = self._known[s]
        return None if known is None else (known[0][: order + 1], known[1][: order + 1])


def _series_parts(v: np.ndarray, m: np.ndarray, s: float) -> np.ndarray:
    """Return each coordinate's part of the first Taylor coefficients of ``log M`` at ``s``,
    ``(ORDERS, d)``.
    """
    numerator = s * (1.0 - s), 1.0 - 2.0 * s, -1.0
    rows = []
    with np.errstate(
        all="ignore"
    ):  # extreme scales have extreme powers, of which few are asked for
        c = (
            1.0 - v
        ) / v  # 1/v - 1 would lose the digits of a v near 1, and log v would not cancel against it
        a = 1.0 + c * s
        powers = [(-c / a) ** k for k in range(ORDERS)]
        for k, power in enumerate(powers):
            log_a = np.log(a) if k == 0 else -power / k
            fraction = sum(numerator[j] * powers[k - j] / a for j in range(min(k, 2) + 1))
            rows.append(-0.5 * log_a - m * m / (2.0 * v) * fraction)
    rows[0] = rows[0] - 0.5 * s * np.log(v)
    rows[1] = rows[1] - 0.5 * np.log(v)
    return np.array(rows)
