"""The likeness of two combinations' gradients, by what multiplies a token's score.

On samples of the policy itself a combination adds ``c(log r_t)`` times the score of token t, with
a polynomial ``c`` in ``r`` and ``log r``. A constant in it changes no mean: that of a score is 0.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import cache

from klbench import gradients
from klbench.gradients._combination import SCORED, Combination, coefficient
from klbench.types import Polynomial

CLAMPED = re.compile("_(verl|openrlhf)(?=[@/])")
OWN, RETURN = "own", "gamma=1"
PER_TOKEN = ("none", "token_ratio", "truncated_ratio")
SAME, MEAN, NEAR, NEAREST, OTHER, NOTHING = (
    "same",
    "same on average",
    "same near the reference",
    "nearest",
    "another",
    "none",
)
"""The words for the likeness of two gradients, the best first."""


@dataclass(frozen=True)
class Gradient:
    """The effect of a combination on the policy.

    Parameters
    ----------
    scope
        Which tokens' KL a token's score is paid for: its own, or also that of later ones.
    polynomial
        What multiplies the score; None where it is no polynomial.
    form
        Whether the estimator's value, its slope or both multiply the score.
    value
        The estimator whose value is logged, without its clamp.
    correction, baseline, reference
        As in a combination.
    """

    scope: str
    polynomial: frozenset[tuple[float, float, int]] | None
    form: str
    value: str
    correction: str
    baseline: str
    reference: str

    @property
    def mean(self) -> frozenset[tuple[float, float, int]] | str:
        """Return what counts on average: the polynomial without its constant."""
        if self.polynomial is None:
            return f"{self.value}: {self.form}"
        return frozenset(each for each in self.polynomial if each[1:] != (0.0, 0))

    @property
    def nothing(self) -> bool:
        """True where the policy is pulled to no reference: the mean gradient on-policy is 0."""
        return self.reference == "sampler" or (self.scope == OWN and not self.mean)

    @property
    def weighted(self) -> bool:
        """True where the weight is not 1 on what the policy itself samples."""
        return " times " in self.scope

    @property
    def slope(self) -> float | None:
        """The derivative of the polynomial by ``log r`` at 0: its gradient near the reference."""
        if self.polynomial is None:
            return None
        return sum(c * a if b == 0 else c * (b == 1) for c, a, b in self.polynomial)

    def likeness(self, other: Gradient) -> str:
        """Return how alike the two are, one of the words above."""
        if self.nothing or other.nothing:
            return SAME if self == other else NOTHING
        if self.mean == other.mean and self.scope == other.scope:
            alike = self.polynomial == other.polynomial and self.baseline == other.baseline
            return SAME if alike and self.correction == other.correction else MEAN
        if self.slope is None or self.slope != other.slope:
            return OTHER
        return NEAR if self.scope == other.scope else NEAREST


@cache
def gradient(name: str) -> Gradient:
    """Return what the combination of that name does, clamps and averages aside."""
    return _of(gradients.get(CLAMPED.sub("", gradients.get(name).spec)))


def _of(combination: Combination) -> Gradient:
    path = combination
    if combination.placement == "straight_through" and not combination.ratio_gradient:
        path = replace(
            combination, estimator=combination.gradient_of, gradient_of="", placement="loss"
        )
    found: Polynomial | None = coefficient(path)
    scope = f"gamma={combination.gamma:g}" if combination.placement in SCORED else OWN
    if scope == "gamma=0":
        scope = OWN
    correction = combination.spec.split("/")[3]
    base = combination.correction.partition("@")[0].partition(":")[0]
    if combination.ratio_gradient and base not in PER_TOKEN:
        scope = base
    weight = math.prod(each.on_policy for each in combination.factors)
    if weight != 1.0:  # bounds without 1 change what the policy itself samples, too
        scope += f" times {weight:g}"
    return Gradient(
        scope,
        None if found is None else frozenset(found),
        _form(combination),
        combination.estimator,
        correction,
        combination.baseline,
        combination.reference,
    )


def _form(combination: Combination) -> str:
    if combination.placement in ("reward", "reward_to_go"):
        return "value"
    both = combination.ratio_gradient or combination.placement == "loss_and_reward"
    return "value and slope" if both else "slope"
