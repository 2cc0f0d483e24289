"""``-log r + lambda (r - 1)``, and ``r log r - lambda (r - 1)`` of the other direction.

The log-ratio with the control variate ``r - 1``, whose mean is 0, at a fixed or a fitted lambda.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from klbench.divergences import get as divergence
from klbench.estimators import register, registry
from klbench.numerics import expm1_and_gap, namespace, overflow
from klbench.types import Array, BatchForm, Claims, ConfigError, Draws, Estimator


def k_lambda(draws: Draws, *, weight: float) -> Array:
    """``-log r + lambda (r - 1)``, written ``lambda k3 + (1 - lambda) k1`` so that it keeps k3's
    accuracy near r = 1.
    """
    if weight == 1.0:
        return draws.derived(expm1_and_gap)[1]
    if weight == 0.0:
        return -draws.log_ratio
    return weight * draws.derived(expm1_and_gap)[1] - (1.0 - weight) * draws.log_ratio


def k_lambda_pq(draws: Draws, *, weight: float) -> Array:
    """``r log r - lambda (r - 1)``, written with the gap ``r log r - (r - 1)`` that keeps its
    accuracy near r = 1; r = 0 gives ``lambda``.
    """
    if weight == 1.0:
        return divergence("kl_pq").gap(draws)
    log_ratio = draws.log_ratio
    xp = namespace(log_ratio)
    none = log_ratio == -xp.inf
    finite = xp.where(none, xp.zeros_like(log_ratio), log_ratio)
    with np.errstate(over="ignore"):
        normalised = xp.exp(finite) * finite
    if weight == 0.0:
        return normalised
    gap = divergence("kl_pq").gap(Draws(finite))
    terms = weight * gap + (1.0 - weight) * normalised
    return xp.where(none, xp.full_like(terms, weight), terms)


def _make_pq(name: str, weight: float) -> Estimator:
    _check(name, weight)
    return Estimator(
        name,
        partial(k_lambda_pq, weight=weight),
        "kl_pq",
        rf"r \log r - \lambda (r - 1),\ \lambda = {weight:g}",
        f"r log r with lambda = {weight:g} of the control variate: estimates KL(p‖q), the other"
        " direction",
        Claims(unbiased=True, nonnegative=weight == 1.0),
        source="Zhang et al. 2025, RPG, arXiv:2505.17508: 0 normalised, 1 unnormalised",
        polynomial=((1.0, 1.0, 1), (-weight, 1.0, 0), (weight, 0.0, 0)),
        growth=1.0,
    )


def _check(name: str, weight: float) -> None:
    if not abs(weight) < float("inf"):
        raise ConfigError(f"estimator {name!r}: lambda must be finite, got {weight}")


def _make(name: str, weight: float) -> Estimator:
    _check(name, weight)
    return Estimator(
        name,
        partial(k_lambda, weight=weight),
        "kl_qp",
        rf"-\log r + \lambda (r - 1),\ \lambda = {weight:g}",
        f"k1 with lambda = {weight:g} of the control variate: unbiased for any fixed lambda",
        Claims(unbiased=True, nonnegative=weight == 1.0, gradient="lambda grad KL(p‖q)"),
        source="Schulman 2020; control variates: Owen 2013, ch. 8.9",
        polynomial=((-1.0, 0.0, 1), (weight, 1.0, 0), (-weight, 0.0, 0)),
        growth=1.0 if weight else 0.0,
    )


def _slope(products: Array, squares: Array) -> Array:
    """``sum(log r (r-1)) / sum((r-1)^2)``, the least-squares lambda.

    1, its limit, where every r is 1.
    """
    xp = namespace(products)
    flat = squares == 0.0
    return xp.where(
        flat, xp.ones_like(squares), products / xp.where(flat, xp.ones_like(squares), squares)
    )


def k_fitted(draws: Draws) -> Array:
    """``-log r + lambda (r - 1)``, lambda fitted on the other half of the batch (the last axis).

    Unbiased: lambda and the half it is applied to are independent and ``E_q[r - 1] = 0``, so the
    product has mean zero. Lambda is an average of ``log r / (r - 1)`` with weights ``(r-1)^2``, so
    its own mean is finite where that of log r is.

    Raises
    ------
    ValueError
        The batch holds fewer than two samples.
    """
    log_ratio = draws.log_ratio
    xp = namespace(log_ratio)
    n = log_ratio.shape[-1]
    if n < 2:
        raise ValueError(f"k_fitted needs at least 2 samples on the last axis, got {n}")
    first, second = slice(None, n // 2), slice(n // 2, None)
    # Half of what overflows: the square of r is what lambda is fitted with.
    if bool(xp.any(log_ratio > overflow(log_ratio) / 2.0 - 1.0)):
        halves = (log_ratio[..., first], log_ratio[..., second])
        return xp.concat([_far_fitted(*halves), _far_fitted(*halves[::-1])], axis=-1)
    excess, gap = draws.derived(expm1_and_gap)

    def fit(half: slice) -> Array:
        e, ell = excess[..., half], log_ratio[..., half]
        return _slope(
            xp.sum(e * ell, axis=-1, keepdims=True), xp.sum(e * e, axis=-1, keepdims=True)
        )

    def apply(half: slice, weight: Array) -> Array:
        return weight * gap[..., half] - (1.0 - weight) * log_ratio[..., half]

    return xp.concat([apply(first, fit(second)), apply(second, fit(first))], axis=-1)


def _far_fitted(log_ratio: Array, other: Array) -> Array:
    """The terms of one half with the lambda of the other, whose largest r is taken out of lambda
    and multiplied in again.
    """
    xp = namespace(log_ratio)
    largest = xp.max(other, axis=-1, keepdims=True)
    largest = xp.where(largest > 0.0, largest, xp.zeros_like(largest))

    def scaled(x: Array) -> Array:
        """``(r - 1) / largest r``."""
        near = x < 1.0
        excess = expm1_and_gap(xp.where(near, x, xp.zeros_like(x)))[0]
        return xp.where(
            near,
            excess * xp.exp(-largest),
            xp.exp(xp.where(near, xp.zeros_like(x), x) - largest) - xp.exp(-largest),
        )

    e = scaled(other)
    weight = _slope(
        xp.sum(e * other, axis=-1, keepdims=True), xp.sum(e * e, axis=-1, keepdims=True)
    )
    return weight * scaled(log_ratio) - log_ratio


def _features(draws: Draws) -> tuple[Array, ...]:
    excess = draws.derived(expm1_and_gap)[0]
    return draws.log_ratio, excess, excess * draws.log_ratio, excess * excess


def _other_lambda(sums: Array) -> Array:
    """Return for each fold the lambda that is fitted on the other one."""
    weight = sums[2] / sums[3]
    if np.isnan(np.add.reduce(weight, axis=None)):  # 0/0: some fold has only r = 1
        weight = _slope(sums[2], sums[3])
    return weight[::-1]


def _estimate(sums: Array, size: Array) -> Array:
    terms = _other_lambda(sums) * sums[1]
    terms -= sums[0]
    return (terms[0] + terms[1]) / size


def _spread_features(draws: Draws) -> tuple[Array, ...]:
    return (draws.log_ratio * draws.log_ratio,)


def _variance(sums: Array, size: Array) -> Array:
    weight = _other_lambda(sums)
    total = (weight * sums[1] - sums[0]).sum(axis=0)
    squares = (sums[4] - 2.0 * weight * sums[2] + weight * weight * sums[3]).sum(axis=0)
    return (squares - total * total / size) / (size * (size - 1.0))


registry.add_family("k_lambda", _make, default=0.5, aliases=("k_lam",))
registry.add_family("k_lambda_pq", _make_pq, default=0.0)
register(
    Estimator(
        "k_fitted",
        k_fitted,
        "kl_qp",
        r"-\log r + \hat\lambda_{-}(r - 1)",
        "k1 with lambda fitted on the other half of the batch: still unbiased, near the least"
        " variance",
        Claims(unbiased=True, nonnegative=False),
        aliases=("control_variate", "k_lambda_fitted"),
        source="control variates: Owen 2013, ch. 8.9; cross-fitting: Avramidis and Wilson 1993",
        growth=1.0,
        batch=BatchForm(2, 2, _features, _estimate, _spread_features, _variance),
    )
)
