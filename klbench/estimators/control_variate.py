"""``-log r + lambda (r - 1)``: k1 with the control variate ``r - 1``, whose mean is 0, at a fixed or a fitted lambda."""

from __future__ import annotations

from functools import partial
from typing import Any

from array_api_compat import array_namespace

from klbench.estimators import register, registry
from klbench.numerics import expm1_and_gap
from klbench.types import BatchForm, Claims, ConfigError, Draws, Estimator

Array = Any


def k_lambda(draws: Draws, *, weight: float) -> Array:
    """``-log r + lambda (r - 1)``, written ``lambda k3 + (1 - lambda) k1`` so that it keeps k3's accuracy near r = 1."""
    if weight == 1.0:
        return draws.derived(expm1_and_gap)[1]
    if weight == 0.0:
        return -draws.log_ratio
    return weight * draws.derived(expm1_and_gap)[1] - (1.0 - weight) * draws.log_ratio


def _make(name: str, weight: float) -> Estimator:
    if not abs(weight) < float("inf"):
        raise ConfigError(f"estimator {name!r}: lambda must be finite, got {weight}")
    return Estimator(
        name, partial(k_lambda, weight=weight), "kl_qp", rf"-\log r + \lambda (r - 1),\ \lambda = {weight:g}",
        f"k1 with lambda = {weight:g} of the control variate: unbiased for any fixed lambda",
        Claims(unbiased=True, nonnegative=weight == 1.0, gradient="lambda grad KL(p‖q)"),
        source="Schulman 2020; control variates: Owen 2013, ch. 8.9",
        polynomial=((-1.0, 0.0, 1), (weight, 1.0, 0), (-weight, 0.0, 0)), growth=1.0 if weight else 0.0,
    )  # fmt: skip


def _slope(products: Array, squares: Array) -> Array:
    """``sum(log r (r-1)) / sum((r-1)^2)``, the least-squares lambda; 1, its limit, where every r is 1."""
    xp = array_namespace(products)
    flat = squares == 0.0
    return xp.where(flat, xp.ones_like(squares), products / xp.where(flat, xp.ones_like(squares), squares))


def k_fitted(draws: Draws) -> Array:
    """``-log r + lambda (r - 1)``, lambda fitted on the other half of the batch (the last axis).

    Unbiased: lambda and the half it is applied to are independent and ``E_q[r - 1] = 0``, so the product has mean zero.
    Lambda is an average of ``log r / (r - 1)`` with weights ``(r-1)^2``, so its own mean is finite where that of log r is.

    Raises
    ------
    ValueError
        The batch holds fewer than two samples.
    """
    log_ratio = draws.log_ratio
    xp = array_namespace(log_ratio)
    n = log_ratio.shape[-1]
    if n < 2:
        raise ValueError(f"k_fitted needs at least 2 samples on the last axis, got {n}")
    excess, gap = draws.derived(expm1_and_gap)
    first, second = slice(None, n // 2), slice(n // 2, None)

    def fit(half: slice) -> Array:
        e, ell = excess[..., half], log_ratio[..., half]
        return _slope(xp.sum(e * ell, axis=-1, keepdims=True), xp.sum(e * e, axis=-1, keepdims=True))

    def apply(half: slice, weight: Array) -> Array:
        return weight * gap[..., half] - (1.0 - weight) * log_ratio[..., half]

    return xp.concat([apply(first, fit(second)), apply(second, fit(first))], axis=-1)


def _features(draws: Draws) -> tuple[Array, ...]:
    excess = draws.derived(expm1_and_gap)[0]
    return draws.log_ratio, excess, excess * draws.log_ratio, excess * excess


def _combine(sums: Array, sizes: Array) -> Array:
    log_ratio, excess, products, squares = sums
    weight = _slope(products, squares)[::-1]  # each fold takes the other's lambda
    return (weight * excess - log_ratio).sum(axis=0) / sizes.sum()


registry.add_family("k_lambda", _make, default=0.5, aliases=("k_lam",))
register(
    Estimator(
        "k_fitted", k_fitted, "kl_qp", r"-\log r + \hat\lambda_{-}(r - 1)",
        "k1 with lambda fitted on the other half of the batch: still unbiased, near the least variance",
        Claims(unbiased=True, nonnegative=False), aliases=("control_variate", "k_lambda_fitted"),
        source="control variates: Owen 2013, ch. 8.9; cross-fitting: Avramidis and Wilson 1993", growth=1.0,
        batch=BatchForm(min_size=2, folds=2, features=_features, combine=_combine),
    )
)  # fmt: skip
