"""The same from samples, the way a trainer gets it: forward pass, surrogate loss, backward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import chdtri
from torch import Tensor

from klbench.gradients._combination import Combination
from klbench.gradients.surrogate import surrogate
from klbench.types import GradientTask, Rollouts

FIVE_SIGMA = 5.7e-7
"""The probability that a normal variable is more than 5 standard deviations off."""


TOGETHER = 2**16
"""The samples whose batches share a backward pass."""


class SquaredDistance(NamedTuple):
    """A squared distance, its standard error, and how far chance alone takes it where it is 0,
    but once in 1.7 million.
    """

    value: float
    se: float
    furthest: float


@dataclass(frozen=True)
class SampledGradients:
    """Mean gradients of independent batches.

    ``gradients`` of shape ``(batches, parameters)``, ``size`` samples in each.
    """

    gradients: Tensor
    size: int

    @property
    def mean(self) -> Tensor:
        """The mean gradient, ``(parameters,)``."""
        return self.gradients.mean(0)

    @property
    def variance(self) -> float:
        """Trace of the covariance between batches, times their size.

        One sample's, where all have one prompt.
        """
        return float(self.gradients.var(0).sum()) * self.size

    @property
    def variance_se(self) -> float:
        """The standard error of the variance, from the spread of the squared deviations between
        batches.
        """
        squares = ((self.gradients - self.mean) ** 2).sum(-1)
        return float(squares.std()) / math.sqrt(len(squares)) * self.size

    def squared_distance(self, target: Tensor) -> SquaredDistance:
        """``‖E g - target‖^2`` without the bias that noise gives the plug-in.

        The mean of the inner products of different batches' deviations: a U-statistic of order 2.
        Where the distance is 0 it is not normal but a centred, weighted chi-square; two of its
        moments give the degrees of freedom (Satterthwaite 1946).
        """
        deviations = self.gradients - target
        n = len(deviations)
        products = deviations @ deviations.T
        value = float(products.sum() - products.diagonal().sum()) / (n * (n - 1))
        noise = self.gradients - self.mean
        gram = noise @ noise.T
        squares = max(
            float((gram**2).sum() - (gram.diagonal() ** 2).sum()) / (n * (n - 1)), 0.0
        )  # tr(cov^2), nearly
        trace = float(gram.diagonal().sum()) / (n - 1)
        along = noise @ deviations.mean(0)
        null = math.sqrt(2 * squares) / n
        freedom = min(trace**2 / squares, 1e9) if squares else 1.0
        furthest = null * float(chdtri(freedom, FIVE_SIGMA) - freedom) / math.sqrt(2 * freedom)
        return SquaredDistance(value, math.sqrt(4 * float(along.var()) / n + null**2), furthest)


def sample(
    combinations: Sequence[Combination],
    task: GradientTask,
    stream: np.random.Generator,
    batches: int,
    size: int,
    group: int,
) -> list[SampledGradients]:
    """Mean gradients of ``batches`` batches of ``size`` samples, whose baselines each ``group`` of
    them shares.

    Every combination sees the same samples.
    """
    together = max(1, TOGETHER // size) if size % group == 0 else 1
    found: list[list[Tensor]] = [[] for _ in combinations]
    for start in range(0, batches, together):
        # A copy of the parameters for each batch: one backward pass is the gradients of all.
        thetas = [
            task.theta().clone().requires_grad_() for _ in range(min(together, batches - start))
        ]
        rollouts = _joined([task.rollouts(each, task.sample(stream, size)) for each in thetas])
        for combination, gradients in zip(combinations, found, strict=True):
            loss = surrogate(combination, rollouts, group).view(-1, size).mean(1).sum()
            if not loss.requires_grad:  # nothing in it depends on the policy
                gradients += map(torch.zeros_like, thetas)
                continue
            gradients += torch.autograd.grad(loss, thetas, retain_graph=True)
    return [SampledGradients(torch.stack(gradients).detach(), size) for gradients in found]


def _joined(several: Sequence[Rollouts]) -> Rollouts:
    """Return the rollouts of several batches one after another."""
    return Rollouts(
        *(torch.cat([getattr(x, name.name) for x in several]) for name in fields(Rollouts))
    )
