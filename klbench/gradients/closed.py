"""The same in closed form, for single draws whose coefficients are sums of ``c r^a (log r)^b``.

Gaussians and exponentials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache

import torch
from torch import Tensor

from klbench import estimators
from klbench.gradients._combination import GROUPED, SCORED, Combination, coefficient, merged
from klbench.gradients.exact import GradientMoments
from klbench.types import Atoms, GradientTask, Polynomial

NEAR = 1e-4
"""Below this KL in nats powers of r are not expanded.

``r - 1 - log r`` would be the difference of its own terms.
"""


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    return merged((c * d, e + f, g + h) for c, e, g in a for d, f, h in b)


class _Integrals:
    """``E_q[c r^a (log r)^b f]`` for the task's own points; None where it diverges."""

    def __init__(self, task: GradientTask) -> None:
        self.rule: Callable[[float], Atoms | None] = cache(task.tilted)
        """The task's points for a power of r."""
        self._squares: Callable[[Atoms], Tensor] = cache(lambda rule: rule.scores.gram()[:, 0, 0])

    def __call__(
        self, polynomial: Polynomial, f: Callable[[Atoms, Tensor], Tensor]
    ) -> Tensor | None:
        result = None
        for power in {a for _, a, _ in polynomial} or {0.0}:  # all has cancelled: 0
            rule = self.rule(power)
            if rule is None:
                return None
            log_ratio = rule.rollouts.log_p - rule.rollouts.log_q
            factor = sum(
                (c * log_ratio**b for c, a, b in polynomial if a == power),
                torch.zeros_like(log_ratio),
            )
            value = f(rule, factor)
            result = value if result is None else result + value
        return result

    def mean(self, polynomial: Polynomial, baseline: float) -> Tensor | None:
        """``E[(polynomial - baseline) s]``."""

        def pulled(rule: Atoms, factor: Tensor) -> Tensor:
            return rule.scores.pull(rule.probability[:, None] * factor)

        return self((*polynomial, (-baseline, 0.0, 0)), pulled)

    def square(self, polynomial: Polynomial, baseline: float) -> float:
        """``E[(polynomial - baseline)^2 ‖s‖^2]``; infinite where it diverges."""

        def norm(rule: Atoms, factor: Tensor) -> Tensor:
            return rule.probability @ (factor[:, 0] * self._squares(rule))

        whole = merged((*polynomial, (-baseline, 0.0, 0)))
        value = self(_product(whole, whole), norm)
        return math.inf if value is None else float(value)

    def expectation(self, polynomial: Polynomial) -> float:
        value = self(polynomial, lambda rule, factor: rule.probability @ factor[:, 0])
        return math.nan if value is None else float(value)


def all_moments(
    combinations: Iterable[Combination], task: GradientTask
) -> list[GradientMoments | None]:
    """Expected gradient and variance of each combination on-policy.

    None where no closed form serves or the mean diverges.
    """
    integrals = _Integrals(task)
    if task.atoms() is not None or integrals.rule(0.0) is None:
        return [None for _ in combinations]
    kl = integrals.expectation(((-1.0, 0.0, 1),))
    return [_moments(each, task, integrals, kl) for each in combinations]


def moments(combination: Combination, task: GradientTask) -> GradientMoments | None:
    """:func:`all_moments` of one combination."""
    return all_moments([combination], task)[0]


def _moments(
    combination: Combination, task: GradientTask, integrals: _Integrals, kl: float
) -> GradientMoments | None:
    if not combination.unweighted or combination.reference != "reference":
        return None
    if combination.placement in ("full", "full_with_score"):
        exact = task.gradient("kl_qp")
        return GradientMoments(
            exact, 0.0, integrals.square(((1.0, 0.0, 1),), -kl) - float(exact @ exact)
        )
    polynomial = None if combination.baseline in GROUPED else coefficient(combination)
    if polynomial is None or (kl < NEAR and any(a for _, a, _ in polynomial)):
        return None
    baseline = kl if combination.baseline == "token_kl" else 0.0
    mean = integrals.mean(polynomial, baseline)
    if mean is None:
        return None
    variance = integrals.square(polynomial, baseline) - float(mean @ mean)
    both = merged((*polynomial, (1.0, 0.0, 1)))  # the reward is -log r
    value = estimators.get(combination.estimator).polynomial or ()
    offset = -kl + (integrals.expectation(value) if combination.placement in SCORED else 0.0)
    total_mean = integrals.mean(both, offset)
    if total_mean is None or math.isnan(offset):
        return GradientMoments(mean, variance, math.inf)
    return GradientMoments(
        mean, variance, integrals.square(both, offset) - float(total_mean @ total_mean)
    )
