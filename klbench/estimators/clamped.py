"""Estimators with a clamp, each under a name that says so.

What a trainer computes when it guards against overflow.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from klbench.estimators import register, registry
from klbench.estimators.schulman import k1, k2, k3
from klbench.numerics import namespace
from klbench.types import Array, Claims, Clamp, ConfigError, Draws, Estimator


def _clip(x: Array, low: float | None, high: float | None) -> Array:
    # NumPy's own is several times as fast as that of the standard
    return (np if type(x) is np.ndarray else namespace(x)).clip(x, low, high)


def k3_clamped(draws: Draws, *, limit: float) -> Array:
    """``min(k3, limit)``; its gradient is 0 where it is cut off."""
    if not isinstance(
        draws.log_ratio, np.ndarray
    ):  # with a gradient, which would be 0 times infinity where r overflows
        draws = Draws(
            _clip(draws.log_ratio, None, math.log(2.0) + math.log(limit + 2.0))
        )  # k3 is above the limit there
    return _clip(k3(draws), None, limit)


def k3_verl(draws: Draws) -> Array:
    """k3 of the log-ratio clamped to +-20, the result clamped to +-10."""
    return _clip(k3(Draws(_clip(draws.log_ratio, -20.0, 20.0))), -10.0, 10.0)


def k1_openrlhf(draws: Draws) -> Array:
    """k1 clamped to +-10."""
    return _clip(k1(draws), -10.0, 10.0)


def k2_openrlhf(draws: Draws) -> Array:
    """k2 clamped to +-10."""
    return _clip(k2(draws), -10.0, 10.0)


def k3_openrlhf(draws: Draws) -> Array:
    """Return k3 clamped to +-10; it never reaches the lower bound."""
    return k3_clamped(draws, limit=10.0)


def _k3_clamp(limit: float) -> Clamp:
    """Return the clamp between whose two ends k3 is below a limit."""

    def crossing(below: float, beyond: float) -> float:
        for _ in range(200):
            middle = 0.5 * (below + beyond)
            below, beyond = (
                (middle, beyond) if math.expm1(middle) - middle < limit else (below, middle)
            )
        return middle

    # k3 is at least x^2/2 where x > 0, and -x - 1 where x < 0.
    return Clamp(
        crossing(0.0, -limit - 1.0),
        crossing(0.0, min(math.sqrt(2.0 * limit), math.log1p(limit) + 2.0)),
    )


def _make(name: str, limit: float) -> Estimator:
    if not 0.0 < limit < float("inf"):
        raise ConfigError(f"estimator {name!r}: the limit must be positive and finite, got {limit}")
    return Estimator(
        name,
        partial(k3_clamped, limit=limit),
        "kl_qp",
        rf"\min((r-1) - \log r,\ {limit:g})",
        f"k3 cut off at {limit:g}: finite variance, biased low, no gradient beyond the limit",
        Claims(unbiased=False, nonnegative=True),
        source="a common guard in trainers",
        clamp=_k3_clamp(limit),
    )


registry.add_family("k3_clamped", _make, default=10.0)
register(
    Estimator(
        "k3_verl",
        k3_verl,
        "kl_qp",
        r"\mathrm{clip}(k_3(\mathrm{clip}(\log r, \pm 20)), \pm 10)",
        "k3 as verl clamps it: log-ratio to +-20, then value to +-10",
        Claims(unbiased=False, nonnegative=True),
        source="verl, trainer/ppo/core_algos.py, kl_penalty (low_var_kl)",
        clamp=_k3_clamp(10.0),
        kinks=(-20.0, 20.0),
    )
)
for _name, _formula, _nonnegative, _clamp in (
    ("k1", k1_openrlhf, False, Clamp(-10.0, 10.0)),
    ("k2", k2_openrlhf, True, Clamp(-math.sqrt(20.0), math.sqrt(20.0))),
    ("k3", k3_openrlhf, True, _k3_clamp(10.0)),
):
    register(
        Estimator(
            f"{_name}_openrlhf",
            _formula,
            "kl_qp",
            rf"\mathrm{{clip}}(k_{_name[1]}, \pm 10)",
            f"{_name} as OpenRLHF clamps it: value to +-10",
            Claims(unbiased=False, nonnegative=_nonnegative),
            source="OpenRLHF, models/utils.py, compute_approx_kl",
            clamp=_clamp,
        )
    )
