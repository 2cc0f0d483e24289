"""Gaussians in any dimension: nearly everything about them is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import field_validator, model_validator

from klbench import divergences
from klbench.numerics import expm1_and_gap
from klbench.oracles import EPS, LARGEST, ExactMoments, closed_form, expectation, polynomial_moments
from klbench.pairs import register
from klbench.pairs._base import Pair, not_extreme, not_extreme_scale
from klbench.types import Draws, Estimator, GradientTask, Options, Skip, Truth

if TYPE_CHECKING:
    from klbench.pairs._density_gradient import GaussianTask

LOG_ROOT_2PI = 0.5 * math.log(2.0 * math.pi)
Vector = float | tuple[float, ...]
Matrix = tuple[tuple[float, ...], ...]


class Normal(Options):
    """A normal distribution: ``mean`` and one of ``std`` (a number, or one per dimension) and ``cov`` (a matrix).

    A number stands for every dimension; the dimension is that of the lists.
    """

    mean: Vector = 0.0
    std: Vector | None = None
    cov: Matrix | None = None

    @field_validator("mean")
    @classmethod
    def _not_extreme(cls, mean: Vector) -> Vector:
        for each in np.ravel(mean):
            not_extreme(float(each))
        return mean

    @field_validator("std")
    @classmethod
    def _positive(cls, std: Vector | None) -> Vector | None:
        if std is not None and not np.all(np.asarray(std) > 0):
            raise ValueError("must be positive")
        for each in () if std is None else np.ravel(std):
            not_extreme_scale(float(each))
        return std

    @field_validator("cov")
    @classmethod
    def _positive_definite(cls, cov: Matrix | None) -> Matrix | None:
        if cov is None:
            return None
        if any(len(row) != len(cov) for row in cov):
            raise ValueError(f"must be square, its rows have lengths {', '.join(str(len(row)) for row in cov)}")
        matrix = np.array(cov)
        if not np.allclose(matrix, matrix.T, rtol=1e-12, atol=0.0):
            raise ValueError("must be symmetric")
        eigenvalues = np.linalg.eigvalsh(matrix).tolist() if len(cov) else [0.0]
        if not eigenvalues[0] > 0.0:
            raise ValueError(f"must be positive definite, its smallest eigenvalue is {eigenvalues[0]:g}")
        for each in eigenvalues[0], eigenvalues[-1]:
            not_extreme_scale(math.sqrt(each))
        return cov

    @model_validator(mode="after")
    def _check(self) -> Normal:
        if self.std is not None and self.cov is not None:
            raise ValueError("give std or cov, not both")
        sizes = {len(v) for v in (self.mean, self.std, self.cov) if isinstance(v, tuple)}
        if len(sizes) > 1 or 0 in sizes:
            raise ValueError(f"mean and std or cov must have one dimension, got {' and '.join(map(str, sorted(sizes)))}")
        return self

    @property
    def dimension(self) -> int | None:
        """The dimension that the lists give; None where all is numbers."""
        for value in (self.mean, self.std, self.cov):
            if isinstance(value, tuple):
                return len(value)
        return None

    def moments(self, dimension: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean ``(d,)`` and covariance ``(d, d)``."""
        mean = np.broadcast_to(np.asarray(self.mean, dtype=float), (dimension,))
        if self.cov is not None:
            return mean, np.array(self.cov)
        std = np.broadcast_to(np.asarray(1.0 if self.std is None else self.std, dtype=float), (dimension,))
        return mean, np.diag(std**2)

    def __str__(self) -> str:
        if self.dimension not in (None, 1):
            return f"N_{self.dimension}"
        mean, cov = self.moments(1)
        return f"N({mean[0]:.4g}, {math.sqrt(cov[0, 0]):.4g}²)"


class _Quadratic:
    """The log-ratio in the coordinates of ``z ~ N(0, I)``, ``x = mean_q + L z``, where both covariances are diagonal.

    ``log r = constant + sum(slope z + curvature z^2 / 2)``. Coordinates that do not matter are left out, and all those
    without curvature become one, so that a shift in any dimension needs one normal a sample.
    """

    def __init__(self, q: tuple[np.ndarray, np.ndarray], p: tuple[np.ndarray, np.ndarray]) -> None:
        factor = np.linalg.cholesky(q[1])
        half = np.linalg.solve(factor, p[1])
        variances, axes = np.linalg.eigh(np.linalg.solve(factor, half.T))
        self.shift = axes.T @ np.linalg.solve(factor, p[0] - q[0])
        self.variances = variances  # of p, along each axis, in units of q's
        same = np.abs(variances - 1.0) <= 8 * EPS * len(variances)
        self.variances[same] = 1.0
        bent = ~same
        flat_shift = float(np.linalg.norm(self.shift[same]))
        has_flat = [flat_shift] if flat_shift > 0.0 else []
        # Per active coordinate: variance of p, shift of p.
        self.active = np.array([*variances[bent], *([1.0] * len(has_flat))]), np.array([*self.shift[bent], *has_flat])
        v, m = self.active
        self.curvature = 1.0 - 1.0 / v
        self.slope = m / v
        self.constant = float(-0.5 * np.sum(m * m / v + np.log(v)))

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

    def series(self, s: float, order: int) -> list[float] | None:
        """Taylor coefficients of ``log M`` at ``s``.

        ``M(s)`` is the product over coordinates of ``a^-1/2 v^-s/2 exp(-m^2 s(1-s) / (2 v a))``, ``a = 1 + s(1/v - 1)``.
        """
        total = [0.0] * (order + 1)
        for v, m in zip(*map(np.ndarray.tolist, self.active), strict=True):
            c = 1.0 / v - 1.0
            a = 1.0 + c * s
            if a <= 0.0:
                return None
            inverse = [(-c / a) ** k / a for k in range(order + 1)]
            numerator = [s * (1.0 - s), 1.0 - 2.0 * s, -1.0]
            for k in range(order + 1):
                log_a = math.log(a) if k == 0 else -((-c / a) ** k) / k
                fraction = sum(numerator[j] * inverse[k - j] for j in range(min(k, 2) + 1))
                total[k] -= 0.5 * log_a + m * m / (2.0 * v) * fraction
            total[0] -= 0.5 * s * math.log(v)
            if order:
                total[1] -= 0.5 * math.log(v)
        return total


@register
class GaussianPair(Pair):
    """Normal distributions of one dimension.

    ``KL(q‖p) = (tr(S_p^-1 S_q) + d' S_p^-1 d - dim + log(det S_p / det S_q)) / 2``; most of the rest follows from ``M(s)``.
    """

    kind: ClassVar[str] = "gaussian"
    summary: ClassVar[str] = "Gaussians in any dimension (mean, std or cov): closed forms for nearly everything"
    q: Normal = Normal()
    p: Normal = Normal(mean=1.0)
    mu: Normal | None = None

    @model_validator(mode="after")
    def _same_dimension(self) -> GaussianPair:
        sizes = {side: each.dimension for side, each in self._sides() if each.dimension is not None}
        if len(set(sizes.values())) > 1:
            raise ValueError("all sides must have one dimension, got " + ", ".join(f"{k}: {v}" for k, v in sizes.items()))
        return self

    def _sides(self) -> list[tuple[str, Normal]]:
        return [("q", self.q), ("p", self.p)] + ([("mu", self.mu)] if self.mu is not None else [])

    @cached_property
    def dimension(self) -> int:
        """The dimension of the space."""
        return next((each.dimension for _, each in self._sides() if each.dimension is not None), 1)

    @cached_property
    def _form(self) -> _Quadratic:
        return _Quadratic(self.q.moments(self.dimension), self.p.moments(self.dimension))

    @property
    def off_policy(self) -> bool:
        return self.mu is not None

    def describe(self) -> str:
        if self.dimension == 1:
            return f"{self.q} ‖ {self.p}" + (f" from {self.mu}" if self.off_policy else "")
        truth = self.truth("kl_qp")
        assert truth is not None
        return f"Gaussian d={self.dimension}, KL={truth.value:.4g}" + (" off-policy" if self.off_policy else "")

    def draw(self, stream: np.random.Generator, n: int) -> Draws:
        if self.mu is None:
            return Draws(self._form.log_ratio(stream.standard_normal((self._form.size, n))))
        return self._draws_from_mu(stream.standard_normal((self.dimension, n)))

    def _draws_from_mu(self, z: np.ndarray) -> Draws:
        assert self.mu is not None
        mean, cov = self.mu.moments(self.dimension)
        x = mean[:, None] + np.linalg.cholesky(cov) @ z
        log_q, log_p, log_mu = (self._log_density(each, x) for each in (self.q, self.p, self.mu))
        return Draws(log_p - log_q, log_q - log_mu)

    def _log_density(self, normal: Normal, x: np.ndarray) -> np.ndarray:
        """Up to ``-dim/2 log 2 pi``, which cancels in every ratio; ``x`` is ``(d, n)``."""
        mean, cov = normal.moments(self.dimension)
        factor = np.linalg.cholesky(cov)
        z = np.linalg.solve(factor, x - mean[:, None])
        result: np.ndarray = -0.5 * np.sum(z * z, axis=0) - np.log(np.diag(factor)).sum()
        return result

    def finite_moment(self, order: float, weight_order: float = 0.0) -> bool:
        sampler = self.q if self.mu is None else self.mu
        weights = (1 - weight_order, sampler), (weight_order - order, self.q), (order, self.p)
        precision = sum(w * np.linalg.inv(each.moments(self.dimension)[1]) for w, each in weights)
        return bool(np.linalg.eigvalsh(precision)[0] > 0.0)

    def truth(self, target: str) -> Truth | None:
        v, m = self._form.active
        if target == "kl_qp":
            return closed_form(0.5 * float(np.sum(expm1_and_gap(-np.log(v))[1] + m * m / v)))
        if target == "kl_pq":
            return closed_form(0.5 * float(np.sum(expm1_and_gap(np.log(v))[1] + m * m)))
        divergence = divergences.get(target)
        if divergence.polynomial is None:
            return self._quadrature_truth(divergence)
        # What is left is (M(a) - 1) times the leading coefficient: chi2, Hellinger, the alpha family.
        power, scale = {"chi2": (2.0, 1.0), "hellinger": (0.5, -1.0)}.get(target) or (
            divergence.polynomial[0][1],
            divergence.polynomial[0][0],
        )
        series = self._form.series(power, 0)
        if series is None:
            return Truth(math.inf, 0.0, "closed-form")
        value = scale * math.expm1(series[0]) if series[0] <= LARGEST else math.inf
        # M is rounded where it is, near 1.
        return Truth(value, 16 * EPS * (abs(value) + abs(scale) * self._form.size), "closed-form")

    def _quadrature_truth(self, divergence: divergences.Divergence) -> Truth | None:
        if self._form.size > 1:
            return None
        if self._form.size == 0:
            return Truth(0.0, 0.0, "closed-form")
        value, error = _standard_normal_expectation(lambda z: divergence.gap(Draws(self._form.log_ratio(z[None].copy())))[None])
        return Truth(float(value[0]), float(error[0]), "quadrature")

    def exact(self, estimators: Sequence[Estimator]) -> list[ExactMoments | None]:
        return [None if e.batch is not None else self._exact(e) for e in estimators]

    def _draws_at(self, z: np.ndarray) -> Draws:
        """The draws that standard normals ``(n,)`` make, where one a sample is enough."""
        return self._draws_from_mu(z[None]) if self.off_policy else Draws(self._form.log_ratio(z[None].copy()))

    def _exact(self, estimator: Estimator) -> ExactMoments | None:
        if estimator.needs_weight and not self.off_policy:
            return None
        if not self.finite_mean(estimator):
            return None
        if not self.off_policy and estimator.polynomial is not None:
            exact = polynomial_moments(estimator.polynomial, self._form.series)
            if exact.std_error <= 1e-9 * exact.std:
                return exact
        if (self.dimension if self.off_policy else self._form.size) != 1:
            return None
        second = self._form.series(2.0 * estimator.growth, 0)
        if second is not None and second[0] > 300.0:  # the mass of the second moment lies where the terms overflow
            return None
        (mean,), (mean_error,) = _standard_normal_expectation(lambda z: estimator.formula(self._draws_at(z))[None])
        if not self.finite_second_moment(estimator):
            return ExactMoments(float(mean), float(mean_error), math.inf, 0.0, "quadrature")
        (variance,), (error,) = _standard_normal_expectation(
            lambda z: ((estimator.formula(self._draws_at(z)) - mean) ** 2)[None]
        )
        std = math.sqrt(variance)
        return ExactMoments(float(mean), float(mean_error), std, float(error) / max(2 * std, EPS), "quadrature")

    def gradient_task(self) -> GradientTask | Skip:
        for side, normal in self._sides():
            cov = normal.moments(self.dimension)[1]
            if np.any(cov != np.diag(np.diag(cov))):
                return Skip(f"gradients are in means and standard deviations, and {side} has correlations")
        return self._task

    @cached_property
    def _task(self) -> GaussianTask:
        from klbench.pairs._density_gradient import GaussianTask

        sides = {side: normal.moments(self.dimension) for side, normal in self._sides()}
        vectors = {side: np.concatenate([mean, 0.5 * np.log(np.diag(cov))]) for side, (mean, cov) in sides.items()}
        return GaussianTask(vectors["q"], vectors["p"], vectors.get("mu"))


def _standard_normal_expectation(function: Any) -> tuple[np.ndarray, np.ndarray]:
    return expectation(lambda z: -0.5 * z * z - LOG_ROOT_2PI, function, -math.inf, math.inf, points=(-4.0, 0.0, 4.0))
