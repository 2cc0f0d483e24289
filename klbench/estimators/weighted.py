"""Estimators for samples of a third distribution mu: ``x ~ mu``, ``w = q(x)/mu(x)``.

(Owen 2013, ch. 9.)
"""

from __future__ import annotations

from functools import partial
from typing import Any

from klbench.divergences.gaps import CERTAIN
from klbench.estimators import register
from klbench.estimators.schulman import k1, k2, k3
from klbench.numerics import expm1_and_gap, namespace, overflow, times_exp
from klbench.types import Array, BatchForm, Claims, Draws, Estimator

SOURCE = "Owen 2013, ch. 9: importance sampling"


def _weight(draws: Draws) -> Array:
    return namespace(draws.log_weight).exp(draws.log_weight)


def weighted(draws: Draws, *, formula: Any) -> Array:
    """``w k(r)``: its mean over ``x ~ mu`` is that of ``k(r)`` over ``x ~ q``.

    0 where k is, however large the weight.
    """
    log_weight: Array = draws.log_weight
    terms: Array = formula(draws)
    xp = namespace(terms)
    far = log_weight > overflow(log_weight)
    if not bool(xp.any(far)):
        return _weight(draws) * terms
    near = xp.exp(xp.where(far, xp.zeros_like(log_weight), log_weight)) * terms
    infinite = far & (terms != 0.0)
    beyond = times_exp(
        xp.where(infinite, terms, xp.ones_like(terms)),
        xp.where(infinite, log_weight, xp.zeros_like(terms)),
    )
    return xp.where(infinite, beyond, xp.where(far, terms, near))


def k3_weighted(draws: Draws) -> Array:
    """``w k3(r)``, finite where ``w r = p/mu`` is though r or w is not."""
    log_ratio: Array = draws.log_ratio
    log_weight: Array = draws.log_weight
    xp = namespace(log_ratio)
    if not bool(xp.any(xp.abs(log_ratio) > CERTAIN)):
        return weighted(draws, formula=k3)
    most = overflow(log_ratio)
    up, down = (
        (log_ratio > CERTAIN) & ((log_ratio > most) | (log_weight > most)),
        log_ratio < -CERTAIN,
    )
    far = up | down
    zero = xp.zeros_like(log_ratio)
    near = (
        xp.exp(xp.where(far, zero, log_weight)) * expm1_and_gap(xp.where(far, zero, log_ratio))[1]
    )
    above = xp.exp(xp.where(up, log_ratio + log_weight, zero))
    below = xp.exp(xp.where(down, log_weight, zero)) * (-1.0 - xp.where(down, log_ratio, zero))
    return xp.where(up, above, xp.where(down, below, near))


def _normalized_weight(draws: Draws) -> Array:
    xp = namespace(draws.log_weight)
    # The largest weight drops out of the ratio; taken out first, exp cannot overflow.
    weight = xp.exp(draws.log_weight - xp.max(draws.log_weight, axis=-1, keepdims=True))
    return weight / xp.mean(weight, axis=-1, keepdims=True)


def k1_self_normalized(draws: Draws) -> Array:
    """``n w / sum(w) * (-log r)`` over the batch (the last axis).

    A ratio estimator, biased by O(1/n).
    """
    return _normalized_weight(draws) * -draws.log_ratio


def _features(draws: Draws) -> tuple[Array, ...]:
    weight = _weight(draws)
    return weight * -draws.log_ratio, weight


def _estimate(sums: Array, size: Array) -> Array:
    return sums[0, 0] / sums[1, 0]


def _spread_features(draws: Draws) -> tuple[Array, ...]:
    squared = _weight(draws) ** 2
    product = squared * -draws.log_ratio
    return squared, product, product * -draws.log_ratio


def _variance(sums: Array, size: Array) -> Array:
    """``sum w^2 (-log r - estimate)^2 / (sum w)^2`` (Owen 2013, eq. 9.8)."""
    estimate = _estimate(sums, size)
    return (sums[4, 0] - 2.0 * estimate * sums[3, 0] + estimate**2 * sums[2, 0]) / sums[1, 0] ** 2


register(
    Estimator(
        "k1_weighted",
        partial(weighted, formula=k1),
        "kl_qp",
        r"-w \log r",
        "importance-weighted k1, for samples of a third distribution",
        Claims(unbiased=True, nonnegative=False, gradient="grad KL(q‖p)"),
        source=SOURCE,
        needs_weight=True,
    )
)
register(
    Estimator(
        "k2_weighted",
        partial(weighted, formula=k2),
        "kl_qp",
        r"\tfrac{w}{2} (\log r)^2",
        "importance-weighted k2, as biased as k2",
        Claims(unbiased=False, nonnegative=True),
        source=SOURCE,
        needs_weight=True,
    )
)
register(
    Estimator(
        "k3_weighted",
        k3_weighted,
        "kl_qp",
        r"w\,((r-1) - \log r)",
        "importance-weighted k3, for samples of a third distribution",
        Claims(unbiased=True, nonnegative=True, gradient="grad KL(q‖p)"),
        source=SOURCE,
        needs_weight=True,
        growth=1.0,
    )
)
register(
    Estimator(
        "k1_self_normalized",
        k1_self_normalized,
        "kl_qp",
        r"\frac{\sum w (-\log r)}{\sum w}",
        "self-normalised k1, a ratio of two batch means: bias falls as 1/n, no overflow of weights",
        Claims(unbiased=False, nonnegative=False),
        source=SOURCE,
        needs_weight=True,
        batch=BatchForm(1, 1, _features, _estimate, _spread_features, _variance),
    )
)
