"""Convex generators and their Bregman gaps, by name.

What Bregman estimators, truths and f-DPO share.

For a convex ``f`` with ``f(1) = 0`` the divergence is ``D_f = E_q[f(r)]``, ``r = p/q``, ``x ~ q``.
Its Bregman gap at 1, ``f(r) - f(1) - f'(1)(r - 1)``, has the same expectation (since ``E_q[r] =
1``), is never negative, and is what an estimator averages. (Csiszar 1967; Ali and Silvey 1966.)
Gaps are functions of the log-ratio, where they can be had without cancellation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, reduce
from itertools import chain
from operator import add
from typing import Any

import numpy as np

from klbench.divergences import gaps
from klbench.numerics import expm1_and_gap, namespace
from klbench.registry import Registry
from klbench.types import Array, ConfigError, Draws, Polynomial


@dataclass(frozen=True)
class Divergence:
    """An f-divergence of the pair.

    Parameters
    ----------
    symbol
        How it is written, direction included.
    f, df
        The generator and its derivative, functions of ``r``; only ``f''(1)`` and the gap matter to
        the estimators.
    gap
        ``f(r) - f(1) - f'(1)(r - 1)`` as a function of the draws, accurate to 16 units in the last
        place; of the alpha family only while alpha keeps away from +-20 and from 0 and 1, near
        which its definition loses ``1 / (4 |alpha (1 - alpha)|)``.
    curvature
        ``f''(1)``: ``D_f = f''(1)/2 theta' F theta + O(theta^3)`` near ``p = q``.
    slope
        What probability costs a policy: ``d/dq [q f(p/q)] = f(r) - r f'(r)``, shifted to 0 at ``r =
        1``, as a function of the log-ratio. It is ``phi'(q/p)`` of ``phi(t) = t f(1/t)``, for which
        ``D_f = E_p[phi(q/p)]``.
    polynomial, growth, growth_at_zero
        As in :class:`klbench.types.Estimator`.
    dual
        The name of the divergence that is the same with the two sides exchanged; empty where none
        has a name.
    """

    name: str
    symbol: str
    tex: str
    f: Callable[[Array], Array]
    df: Callable[[Array], Array]
    gap: Callable[[Draws], Array]
    curvature: float
    growth: float
    growth_at_zero: float = 0.0
    polynomial: Polynomial | None = None
    slope: Callable[[Array], Array] = field(kw_only=True)
    dual: str = field(default="", kw_only=True)


registry: Registry[Divergence] = Registry("divergence", "klbench.divergences")
registry._discovered = True  # all are registered below


def get(name: str) -> Divergence:
    """The divergence of that name, such as ``kl_qp``, ``kl_pq``, ``js``, ``alpha:0.5`` or a sum,
    ``kl_qp+alpha:-1``.

    Raises
    ------
    ConfigError
        No such name.
    """
    return _sum(name) if "+" in name else registry.get(name)


@cache
def _sum(name: str) -> Divergence:
    """The sum of divergences: its generator, gap and slope are the sums of theirs."""
    parts = [registry.get(part.strip()) for part in name.split("+")]
    polynomials = [part.polynomial for part in parts if part.polynomial is not None]

    def added(functions: Sequence[Callable[[Any], Array]]) -> Callable[[Any], Array]:
        return lambda x: reduce(add, (function(x) for function in functions))

    return Divergence(
        "+".join(part.name for part in parts),
        " + ".join(part.symbol for part in parts),
        r",\ ".join(part.tex for part in parts),
        added([part.f for part in parts]),
        added([part.df for part in parts]),
        added([part.gap for part in parts]),
        curvature=sum(part.curvature for part in parts),
        growth=max(part.growth for part in parts),
        growth_at_zero=max(part.growth_at_zero for part in parts),
        polynomial=tuple(chain(*polynomials)) if len(polynomials) == len(parts) else None,
        slope=added([part.slope for part in parts]),
    )


def names() -> list[str]:
    """The names of all divergences."""
    return registry.names()


FAR = 100.0
"""Beyond this log-ratio a divergence is summed from the side of p, where nothing overflows."""


def terms(name: str, log_q: np.ndarray, log_p: np.ndarray) -> np.ndarray:
    """``q gap(p/q)``, the terms whose sum is the divergence of that name, from finite
    log-probabilities of one shape.

    A term is infinite only where it is too large for a float, not where the ratio is.
    """
    divergence, log_ratio = get(name), log_p - log_q
    far = (log_ratio > FAR) & bool(divergence.dual)
    with np.errstate(over="ignore", invalid="ignore"):
        result = np.exp(log_q) * divergence.gap(Draws(np.where(far, 0.0, log_ratio)))
        if far.any():
            result[far] = np.exp(log_p[far]) * get(divergence.dual).gap(Draws(-log_ratio[far]))
    return np.where(
        np.isnan(result) & (log_ratio > FAR), math.inf, result
    )  # the gap overflows, and q has long vanished


def _log(r: Array) -> Array:
    return namespace(r).log(r)


def _power_slope(power: float, scale: float = 1.0) -> Callable[[Array], Array]:
    """``scale (1 - r^power) / power``: the slope of all generators that are powers."""
    return lambda log_ratio: namespace(log_ratio).expm1(power * log_ratio) * (-scale / power)


def _js_slope(log_ratio: Array) -> Array:
    # -log((1 + r)/2)/2, with (1 + r)/2 = exp(l/2) cosh(l/2).
    xp = namespace(log_ratio)
    size = xp.abs(log_ratio)
    return -0.25 * (log_ratio + size) - 0.5 * xp.log1p(xp.expm1(-size) / 2.0)


registry.add(
    "kl_qp",
    Divergence(
        "kl_qp",
        "KL(q‖p)",
        r"f(r) = -\log r",
        lambda r: -_log(r),
        lambda r: -1.0 / r,
        gaps.kl_qp,
        curvature=1.0,
        growth=1.0,
        polynomial=((1.0, 1.0, 0), (-1.0, 0.0, 0), (-1.0, 0.0, 1)),
        slope=lambda log_ratio: -log_ratio,
        dual="kl_pq",
    ),
)
registry.add(
    "kl_pq",
    Divergence(
        "kl_pq",
        "KL(p‖q)",
        r"f(r) = r \log r",
        lambda r: r * _log(r),
        lambda r: _log(r) + 1.0,
        gaps.kl_pq,
        curvature=1.0,
        growth=1.0,
        polynomial=((1.0, 1.0, 1), (-1.0, 1.0, 0), (1.0, 0.0, 0)),
        slope=_power_slope(1.0),
        dual="kl_qp",
    ),
)
registry.add(
    "js",
    Divergence(
        "js",
        "JS(q, p)",
        r"f(r) = \tfrac12\left(r \log r - (1+r) \log\tfrac{1+r}{2}\right)",
        lambda r: 0.5 * (r * _log(r) - (1.0 + r) * _log((1.0 + r) / 2.0)),
        lambda r: 0.5 * _log(2.0 * r / (1.0 + r)),
        gaps.js,
        curvature=0.25,
        growth=1.0,
        slope=_js_slope,
        dual="js",
    ),
)
registry.add(
    "hellinger",
    Divergence(
        "hellinger",
        "H²(q, p)",
        r"f(r) = \tfrac12 (\sqrt r - 1)^2",
        lambda r: 0.5 * (r**0.5 - 1.0) ** 2,
        lambda r: 0.5 * (1.0 - r**-0.5),
        gaps.hellinger,
        curvature=0.25,
        growth=1.0,
        polynomial=((0.5, 1.0, 0), (-1.0, 0.5, 0), (0.5, 0.0, 0)),
        slope=_power_slope(0.5, 0.25),
        dual="hellinger",
    ),
)
registry.add(
    "chi2",
    Divergence(
        "chi2",
        "χ²(p‖q)",
        r"f(r) = (r - 1)^2",
        lambda r: (r - 1.0) ** 2,
        lambda r: 2.0 * (r - 1.0),
        gaps.chi2,
        curvature=2.0,
        growth=2.0,
        polynomial=((1.0, 2.0, 0), (-2.0, 1.0, 0), (1.0, 0.0, 0)),
        slope=_power_slope(2.0, 2.0),
    ),
)


LARGEST_ALPHA = 20.0


def _alpha(name: str, alpha: float) -> Divergence:
    if not math.isfinite(alpha) or abs(alpha) > LARGEST_ALPHA:
        raise ConfigError(f"divergence {name!r}: alpha must lie within -20 and 20, got {alpha}")
    if min(abs(alpha), abs(alpha - 1.0)) < 1e-3:
        raise ConfigError(
            f"divergence {name!r}: alpha must keep 0.001 from 0 and 1, got {alpha}; those limits"
            " are kl_qp and kl_pq"
        )
    scale = 1.0 / (alpha * (alpha - 1.0))
    return Divergence(
        name,
        f"D_{alpha:g}(p‖q)",
        rf"f(r) = \frac{{r^\alpha - 1 - \alpha(r-1)}}{{\alpha(\alpha-1)}},\ \alpha = {alpha:g}",
        lambda r: (r**alpha - 1.0 - alpha * (r - 1.0)) * scale,
        lambda r: (r ** (alpha - 1.0) - 1.0) * alpha * scale,
        lambda draws: gaps.alpha_family(draws, alpha),
        curvature=1.0,
        growth=max(1.0, alpha),
        growth_at_zero=max(0.0, -alpha),
        polynomial=((scale, alpha, 0), (-scale * alpha, 1.0, 0), (scale * (alpha - 1.0), 0.0, 0)),
        slope=_power_slope(alpha),
        dual=f"alpha:{1.0 - alpha!r}" if abs(1.0 - alpha) <= LARGEST_ALPHA else "",
    )


registry.add_family("alpha", _alpha, default=0.5)


def unreached(name: str) -> float:
    """``lim gap(r) / r`` as r grows.

    What each unit of p's probability adds to a divergence where q has none; often infinite.

    With ``m`` the probability that p has there, ``D_f = E_q[gap(r)] + m lim gap(r)/r``: the
    divergence counts what no sample of q ever shows. (Liese and Vajda 2006, "On divergences and
    informations in statistics and information theory".)
    """
    divergence = get(name)
    if divergence.polynomial is None:
        return float(divergence.gap(Draws(np.array([600.0])))[0] / math.exp(600.0))
    if any(c and (a > 1.0 or (a == 1.0 and b)) for c, a, b in divergence.polynomial):
        return math.inf
    return sum(c for c, a, _ in divergence.polynomial if a == 1.0)


def generator(
    name: str, f: Callable[[Array], Array], df: Callable[[Array], Array], *, growth: float = 1.0
) -> Divergence:
    """A divergence from a convex ``f`` of your own, with derivative ``df``, both functions of
    ``r``.

    Its gap is computed as written, ``f(r) - f(1) - f'(1)(r - 1)``, and so is only as accurate as
    that subtraction: near ``r = 1`` it is of size ``(log r)^2`` and carries the rounding of ``f``,
    some ``eps * |f(1)|``, in absolute terms. ``growth`` is the power of ``r`` that ``f`` grows
    with. The slope, too, is computed as written.
    """

    def gap(draws: Draws) -> Array:
        xp = namespace(draws.log_ratio)
        excess = draws.derived(expm1_and_gap)[0]
        one = xp.ones_like(draws.log_ratio)
        return f(1.0 + excess) - f(one) - df(one) * excess

    def slope(log_ratio: Array) -> Array:
        r = namespace(log_ratio).exp(log_ratio)
        one = namespace(r).ones_like(r)
        return f(r) - f(one) - r * df(r) + df(one)

    return Divergence(
        name, f"D_{name}", f"f = {name}", f, df, gap, curvature=math.nan, growth=growth, slope=slope
    )
