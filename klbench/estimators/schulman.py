"""k1, k2, k3 and |log r|: the estimators everyone means.

(Schulman 2020, "Approximating KL divergence".)
"""

from __future__ import annotations

from klbench.divergences import get as divergence
from klbench.estimators import register
from klbench.numerics import expm1_and_gap, namespace
from klbench.types import Array, Claims, Draws, Estimator

SOURCE = "Schulman 2020, joschu.net/blog/kl-approx.html"


def k1(draws: Draws) -> Array:
    """``-log r``."""
    return -draws.log_ratio


def k2(draws: Draws) -> Array:
    """``(log r)^2 / 2``."""
    return 0.5 * draws.log_ratio * draws.log_ratio


def k3(draws: Draws) -> Array:
    """``(r - 1) - log r``."""
    return draws.derived(expm1_and_gap)[1]


def absolute(draws: Draws) -> Array:
    """``|log r|``."""
    return namespace(draws.log_ratio).abs(draws.log_ratio)


register(
    Estimator(
        "k1",
        k1,
        "kl_qp",
        r"-\log r",
        "the log-ratio itself: unbiased, noisy, negative on many samples",
        Claims(unbiased=True, nonnegative=False, gradient="0"),
        aliases=("v1", "kl", "naive"),
        source=SOURCE,
        polynomial=((-1.0, 0.0, 1),),
    )
)
register(
    Estimator(
        "k2",
        k2,
        "kl_qp",
        r"\tfrac12 (\log r)^2",
        "half the squared log-ratio: little noise, biased away from r = 1",
        Claims(unbiased=False, nonnegative=True, gradient="grad KL(q‖p)"),
        aliases=("v2", "mse"),
        source=SOURCE,
        polynomial=((0.5, 0.0, 2),),
    )
)
register(
    Estimator(
        "k3",
        k3,
        "kl_qp",
        r"(r - 1) - \log r",
        "k1 and a control variate of mean zero: unbiased, never negative, heavy right tail",
        Claims(unbiased=True, nonnegative=True, gradient="grad KL(p‖q)"),
        aliases=("v3", "kl3", "low_var_kl"),
        source=SOURCE,
        polynomial=divergence("kl_qp").polynomial,
        growth=1.0,
    )
)
register(
    Estimator(
        "abs",
        absolute,
        "kl_qp",
        r"|\log r|",
        "the absolute log-ratio: of the order of sqrt(KL), no estimate of KL(q‖p)",
        Claims(unbiased=False, nonnegative=True),
        aliases=("absolute",),
        source="a kl_penalty option of verl",
        kinks=(0.0,),
    )
)
