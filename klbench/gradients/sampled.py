"""The same from samples, the way a trainer gets it: forward pass, surrogate loss, backward pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from klbench.gradients._combination import Combination
from klbench.gradients.surrogate import surrogate
from klbench.types import GradientTask

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class SampledGradients:
    """Mean gradients of independent batches: ``gradients`` of shape ``(batches, parameters)``, ``size`` samples in each."""

    gradients: Tensor
    size: int

    @property
    def mean(self) -> Tensor:
        """The mean gradient, ``(parameters,)``."""
        return self.gradients.mean(0)

    @property
    def variance(self) -> float:
        """Trace of the covariance between batches, times their size: one sample's, where all have one prompt."""
        return float(self.gradients.var(0).sum()) * self.size

    @property
    def variance_se(self) -> float:
        """Its standard error, from the spread of the squared deviations between batches."""
        squares = ((self.gradients - self.mean) ** 2).sum(-1)
        return float(squares.std()) / math.sqrt(len(squares)) * self.size

    def squared_distance(self, target: Tensor) -> tuple[float, float, float]:
        """``‖E g - target‖^2`` without the bias that noise gives the plug-in, its standard error, and that if it were 0.

        The mean of the inner products of different batches' deviations: a U-statistic of order 2. Its standard error grows
        with the distance; whether there is any distance is for the last one to say.
        """
        deviations = self.gradients - target
        n = len(deviations)
        products = deviations @ deviations.T
        value = float(products.sum() - products.diagonal().sum()) / (n * (n - 1))
        noise = self.gradients - self.mean
        gram = noise @ noise.T
        squares = float((gram**2).sum() - (gram.diagonal() ** 2).sum()) / (n * (n - 1))  # tr(cov^2), nearly unbiased
        along = noise @ deviations.mean(0)
        null = 2 * max(squares, 0.0) / n**2
        return value, math.sqrt(4 * float(along.var()) / n + null), math.sqrt(null)


def sample(
    combinations: Sequence[Combination], task: GradientTask, stream: np.random.Generator, batches: int, size: int, group: int
) -> list[SampledGradients]:
    """Mean gradients of ``batches`` batches of ``size`` samples, whose baselines each ``group`` of them shares.

    Every combination sees the same samples.
    """
    import torch

    theta = task.theta().clone().requires_grad_()
    found: list[list[Tensor]] = [[] for _ in combinations]
    for _ in range(batches):
        rollouts = task.rollouts(theta, task.sample(stream, size))
        for combination, gradients in zip(combinations, found, strict=True):
            loss = surrogate(combination, rollouts, group).mean()
            if not loss.requires_grad:  # nothing in it depends on the policy
                gradients.append(torch.zeros_like(theta))
                continue
            (gradient,) = torch.autograd.grad(loss, theta, retain_graph=True)
            gradients.append(gradient)
    return [SampledGradients(torch.stack(gradients), size) for gradients in found]
