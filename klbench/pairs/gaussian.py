"""Gaussians in any dimension: nearly everything about them is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from pydantic import field_validator, model_validator

from klbench import divergences
from klbench.estimators.bregman import bregman
from klbench.numerics import expm1_and_gap
from klbench.oracles import EPS, LARGEST, ExactMoments, closed_form, polynomial_moments
from klbench.pairs import register
from klbench.pairs._base import Pair, exact_moments, not_extreme, not_extreme_scale
from klbench.pairs._quadratic import Bell, Quadratic, solved
from klbench.types import Draws, Estimator, GradientTask, Options, Skip, Truth

SURE = 1e-9
"""Relative error of the parameters up to which quadrature is worth its while."""
Vector = float | tuple[float, ...]
Matrix = tuple[tuple[float, ...], ...]


class Normal(Options):
    """A normal distribution.

    ``mean`` and one of ``std`` (a number, or one per dimension) and ``cov`` (a matrix).

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
            raise ValueError(
                f"must be square, its rows have lengths {', '.join(str(len(row)) for row in cov)}"
            )
        matrix = np.array(cov)
        if not np.allclose(matrix, matrix.T, rtol=1e-12, atol=0.0):
            raise ValueError("must be symmetric")
        eigenvalues = np.linalg.eigvalsh(matrix).tolist() if len(cov) else [0.0]
        if not eigenvalues[0] > 0.0:
            raise ValueError(
                f"must be positive definite, its smallest eigenvalue is {eigenvalues[0]:g}"
            )
        for each in eigenvalues[0], eigenvalues[-1]:
            not_extreme_scale(math.sqrt(each))
        return cov

    @model_validator(mode="after")
    def _check(self) -> Normal:
        if self.std is not None and self.cov is not None:
            raise ValueError("give std or cov, not both")
        sizes = {len(v) for v in (self.mean, self.std, self.cov) if isinstance(v, tuple)}
        if len(sizes) > 1 or 0 in sizes:
            raise ValueError(
                "mean and std or cov must have one dimension, got"
                f" {' and '.join(map(str, sorted(sizes)))}"
            )
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
        std = np.broadcast_to(
            np.asarray(1.0 if self.std is None else self.std, dtype=float), (dimension,)
        )
        return mean, np.diag(std**2)

    def __str__(self) -> str:
        if self.dimension not in (None, 1):
            return f"N_{self.dimension}"
        mean, cov = self.moments(1)
        return f"N({mean[0]:.4g}, {math.sqrt(cov[0, 0]):.4g}²)"


def _bell(normal: Normal) -> Bell:
    """Return the density of a normal distribution of one dimension."""
    (mean,), ((variance,),) = normal.moments(1)
    return Bell(float(mean), math.sqrt(variance))


def _growth(margin: float) -> float:
    """Return the relative error of an exponential whose exponent is off by ``margin``."""
    return math.expm1(margin) if margin < LARGEST else math.inf


def _widened(exact: ExactMoments, *moved: ExactMoments | None) -> ExactMoments:
    """Return the moments with errors that make room for parameters that are off by as much as
    those of each of ``moved``.
    """
    others = [each for each in moved if each is not None]
    mean_error = 2.0 * sum(abs(exact.mean - each.mean) for each in others)
    std_error = (
        0.0 if math.isinf(exact.std) else 2.0 * sum(abs(exact.std - each.std) for each in others)
    )
    return replace(
        exact, mean_error=exact.mean_error + mean_error, std_error=exact.std_error + std_error
    )


@register
class GaussianPair(Pair):
    """Normal distributions of one dimension.

    ``KL(q‖p) = (tr(S_p^-1 S_q) + d' S_p^-1 d - dim + log(det S_p / det S_q)) / 2``; most of the
    rest follows from ``M(s)``.
    """

    kind: ClassVar[str] = "gaussian"
    summary: ClassVar[str] = (
        "Gaussians in any dimension (mean, std or cov): closed forms for nearly everything"
    )
    q: Normal = Normal(mean=0.0)
    p: Normal = Normal(mean=1.0)
    mu: Normal | None = None

    @model_validator(mode="after")
    def _same_dimension(self) -> GaussianPair:
        sizes = {side: each.dimension for side, each in self._sides() if each.dimension is not None}
        if len(set(sizes.values())) > 1:
            raise ValueError(
                "all sides must have one dimension, got "
                + ", ".join(f"{k}: {v}" for k, v in sizes.items())
            )
        return self

    def _sides(self) -> list[tuple[str, Normal]]:
        return [("q", self.q), ("p", self.p)] + ([("mu", self.mu)] if self.mu is not None else [])

    @cached_property
    def dimension(self) -> int:
        """The dimension of the space."""
        return next((each.dimension for _, each in self._sides() if each.dimension is not None), 1)

    @cached_property
    def _form(self) -> Quadratic:
        return Quadratic(self.q.moments(self.dimension), self.p.moments(self.dimension))

    @property
    def off_policy(self) -> bool:
        return self.mu is not None

    def describe(self) -> str:
        if self.dimension == 1:
            return f"{self.q} ‖ {self.p}" + (f" from {self.mu}" if self.off_policy else "")
        truth = self.truth("kl_qp")
        assert truth is not None
        return f"Gaussian d={self.dimension}, KL={truth.value:.4g}" + (
            " off-policy" if self.off_policy else ""
        )

    def draw(self, stream: np.random.Generator, n: int) -> Draws:
        if self.mu is None:
            return Draws(self._form.log_ratio(stream.standard_normal((self._form.size, n))))
        return self._draws_from_mu(stream.standard_normal((self.dimension, n)))

    def _draws_from_mu(self, z: np.ndarray) -> Draws:
        assert self.mu is not None
        mean, cov = self.mu.moments(self.dimension)
        offset = (
            np.linalg.cholesky(cov) @ z
        )  # from the sampler's mean: further from the origin, digits would be lost
        log_q, log_p, log_mu = (
            self._log_density(each, mean, offset) for each in (self.q, self.p, self.mu)
        )
        return Draws(log_p - log_q, log_q - log_mu)

    def _log_density(self, normal: Normal, origin: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """Return the log-density at ``origin + offset``, ``(d, n)``, up to ``-d/2 log 2 pi``,
        which cancels in every ratio.
        """
        mean, cov = normal.moments(self.dimension)
        factor = np.linalg.cholesky(cov)
        z = solved(factor, (origin - mean)[:, None] + offset)
        result: np.ndarray = -0.5 * np.sum(z * z, axis=0) - np.log(np.diag(factor)).sum()
        return result

    def finite_moment(self, order: float, weight_order: float = 0.0) -> bool:
        if self.mu is None:
            return bool(np.all(1.0 + order * (1.0 / self._form.variances - 1.0) > 0.0))
        precision = sum(
            weight * part
            for weight, part in zip(
                (1.0 - weight_order, weight_order - order, order), self._precisions, strict=True
            )
        )
        return bool(np.linalg.eigvalsh(precision)[0] > 0.0)

    @cached_property
    def _precisions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Inverse covariances of mu, q and p, in units of mu's standard deviations."""
        assert self.mu is not None
        of_mu, of_q, of_p = (
            np.linalg.cholesky(each.moments(self.dimension)[1])
            for each in (self.mu, self.q, self.p)
        )
        ratios = solved(of_q, of_mu), solved(of_p, of_mu)
        return np.eye(self.dimension), ratios[0].T @ ratios[0], ratios[1].T @ ratios[1]

    def truth(self, target: str) -> Truth | None:
        if target == "kl_qp":
            return self._kl(lambda v, m: 0.5 * (expm1_and_gap(-np.log(v))[1] + m * m / v))
        if target == "kl_pq":
            return self._kl(lambda v, m: 0.5 * (expm1_and_gap(np.log(v))[1] + m * m))
        divergence = divergences.get(target)
        if divergence.polynomial is None:
            return self._quadrature_truth(divergence)
        # What is left is (M(a) - 1) times the leading coefficient: chi2, Hellinger, the alpha
        # family.
        power, scale = {"chi2": (2.0, 1.0), "hellinger": (0.5, -1.0)}.get(target) or (
            divergence.polynomial[0][1],
            divergence.polynomial[0][0],
        )
        series = self._form.series(power, 0)
        if series is None:
            return Truth(math.inf, 0.0, "closed-form")
        (log_moment,), (margin,) = series
        if log_moment > LARGEST:
            return Truth(math.inf, math.inf, "closed-form")  # finite, and beyond a float
        value = scale * math.expm1(log_moment)
        # M is rounded where it is, near 1.
        error = 16 * EPS * (abs(value) + abs(scale) * self._form.size) + (
            abs(value) + abs(scale)
        ) * _growth(margin)
        return Truth(value, error, "closed-form")

    def _kl(self, parts: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Truth:
        truth = closed_form(float(np.sum(parts(*self._form.active))))
        return replace(truth, error=truth.error + float(self._form.margin(parts)))

    def _quadrature_truth(self, divergence: divergences.Divergence) -> Truth | None:
        if self._form.size == 0:
            return Truth(0.0, 0.0, "closed-form")
        (exact,) = self._in_one_coordinate([bregman(divergence)])
        return None if exact is None else Truth(exact.mean, exact.mean_error, "quadrature")

    def exact(self, estimators: Sequence[Estimator]) -> list[ExactMoments | None]:
        known = (
            {}
            if self.off_policy
            else {e.name: exact for e in estimators if (exact := self._closed_form_moments(e))}
        )
        left = [e for e in estimators if e.name not in known]
        if self.mu is None:
            found = self._in_one_coordinate(left)
        elif self.dimension == 1:
            found = exact_moments(self, _bell(self.q), _bell(self.p), _bell(self.mu), left)
        else:
            found = [None] * len(left)
        known |= {e.name: exact for e, exact in zip(left, found, strict=True) if exact}
        return [known.get(e.name) for e in estimators]

    def _in_one_coordinate(self, estimators: Sequence[Estimator]) -> list[ExactMoments | None]:
        """Exact moments on-policy, by quadrature.

        None where policy and reference differ in more than one coordinate.
        """
        if self._form.size != 1 or self._form.uncertainty > SURE:
            return [None] * len(estimators)
        (variance,), (shift,) = self._form.active
        on_policy = self.model_copy(update={"mu": None})

        def found(of_shift: float = 1.0, of_std: float = 1.0) -> list[ExactMoments | None]:
            p = Bell(shift * of_shift, math.sqrt(variance) * of_std)
            return exact_moments(on_policy, Bell(0.0, 1.0), p, None, estimators)

        if (
            self.dimension == 1
        ):  # what is uncertain is the last bit, which quadrature has in its bounds
            return found()
        factor = math.exp(0.5 * self._form.uncertainty)
        # Each by itself: moved together, they leave the shift in units of p's standard deviation as
        # it is.
        parts = zip(found(), found(of_shift=factor), found(of_std=factor), strict=True)
        return [one and _widened(one, *moved) for one, *moved in parts]

    def _closed_form_moments(self, estimator: Estimator) -> ExactMoments | None:
        if (
            estimator.batch is not None
            or estimator.polynomial is None
            or not self.finite_mean(estimator)
        ):
            return None
        exact = polynomial_moments(estimator.polynomial, self._form.series)
        if math.isinf(exact.std) and self.finite_second_moment(estimator):
            return None  # the variance is finite, and beyond a float
        # Where much cancels, quadrature knows better, if there is one coordinate.
        return exact if exact.std_error <= 1e-9 * exact.std or self._form.size != 1 else None

    def gradient_task(self) -> GradientTask | Skip:
        for side, normal in self._sides():
            cov = normal.moments(self.dimension)[1]
            if np.any(cov != np.diag(np.diag(cov))):
                return Skip(
                    f"gradients are in means and standard deviations, and {side} has correlations"
                )
        return self._task

    @cached_property
    def _task(self) -> GradientTask:
        from klbench.pairs._density_gradient import GaussianTask

        sides = {side: normal.moments(self.dimension) for side, normal in self._sides()}
        vectors = {
            side: np.concatenate([mean, 0.5 * np.log(np.diag(cov))])
            for side, (mean, cov) in sides.items()
        }
        return GaussianTask(vectors["q"], vectors["p"], vectors.get("mu"))
