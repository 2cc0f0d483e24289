"""Moments of estimates of the value of ``KL(q‖p)`` on Markov policies of any length."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from klbench import estimators
from klbench.gradients._combination import EXACT
from klbench.gradients.doubling import PREFIX, WHOLE
from klbench.gradients.edges import Edges, Plan
from klbench.types import Draws

BEYOND = 700.0
"""The exponent from which a second moment is beyond a float, and inf."""


def value_moments(
    estimator: str, weight: str, edges: Edges, lengths: Sequence[int]
) -> dict[int, tuple[float, float]]:
    """Return mean and variance of one sequence's estimate.

    A sum over its tokens, ``full_kl`` that of the exact KLs.
    """
    number = (
        edges.kl
        if estimator == EXACT
        else np.asarray(estimators.get(estimator).terms(Draws(edges.log_ratio)))
    )
    ratio, zero, one = np.exp(edges.log_weight), edges.zero, edges.one
    if weight == "token_ratio":
        number = number * ratio
    decision = weight == "decision_ratio"
    if (
        decision and estimator != EXACT
    ):  # the exact KL of a next token has the weight of those before it
        number = number * ratio
    rules, tilt = (PREFIX if decision else WHOLE), float(weight == "sequence_ratio")
    plan = Plan(rules, number, one, zero, zero, ratio if decision else one, tilt, one)
    first, second = (
        edges.means(plan, (letters,), lengths, k * tilt) for k, letters in ((1, "R"), (2, "RR"))
    )
    found = {}
    for length in lengths:
        mean = float(first[length][0]["R"]) * math.exp(first[length][1])
        square, log_unit = float(second[length][0]["RR"]), second[length][1]
        known = math.isfinite(square) and log_unit < BEYOND
        variance = square * math.exp(log_unit) - mean**2 if known else math.inf
        found[length] = mean, variance
    return found
