"""The Bregman estimator of any convex f.

``f(r) - f(1) - f'(1)(r - 1)``, never negative, with mean ``D_f``.
"""

from __future__ import annotations

from klbench import divergences
from klbench.divergences import Divergence
from klbench.estimators import register, registry
from klbench.estimators.schulman import SOURCE as SCHULMAN
from klbench.types import Claims, Estimator

SOURCE = f"{SCHULMAN}; Bregman 1967; f-divergences: Csiszar 1967"


def bregman(
    divergence: Divergence, *, name: str | None = None, summary: str | None = None
) -> Estimator:
    """The Bregman estimator of a divergence, one of :mod:`klbench.divergences` or
    ``divergences.generator(...)`` of your own.

    Its terms are ``f(r) - f(1) - f'(1)(r - 1)``: shape and dtype of the log-ratio, unbiased for
    ``D_f`` on-policy.
    """
    return Estimator(
        name or f"bregman_{divergence.name}",
        divergence.gap,
        divergence.name,
        f"f(r) - f(1) - f'(1)(r-1),\\ {divergence.tex}",
        summary or f"Bregman gap, estimates {divergence.symbol}",
        Claims(
            unbiased=True,
            nonnegative=True,
            gradient="grad KL(p‖q)" if divergence.name == "kl_qp" else None,
        ),
        source=SOURCE,
        polynomial=divergence.polynomial,
        growth=divergence.growth,
        growth_at_zero=divergence.growth_at_zero,
    )


def _alpha(name: str, alpha: float) -> Estimator:
    return bregman(divergences.get(f"alpha:{repr(alpha).removesuffix('.0')}"), name=name)


register(
    bregman(
        divergences.get("kl_qp"),
        summary="f = -log r: the same numbers as k3, by the general construction",
    )
)
register(
    bregman(
        divergences.get("kl_pq"),
        summary="f = r log r: r log r - (r-1), which estimates KL(p‖q), the other direction",
    )
)
register(bregman(divergences.get("js"), summary="Jensen-Shannon divergence"))
register(
    bregman(
        divergences.get("hellinger"),
        summary="squared Hellinger distance, 1 minus the Bhattacharyya coefficient",
    )
)
register(bregman(divergences.get("chi2"), summary="Pearson's chi-squared of p from q: (r-1)^2"))
registry.add_family("bregman_alpha", _alpha, default=0.5)
