"""A reward model from preferences, for a whole stack of replicas at once.

    # on the testbed, by number of pairs
    python -m klbench +exp=reward_model
    python -m klbench +exp=reward_model 'sizes=[1000,10000]' scale=3

The loop knows nothing of what it trains: a :class:`RewardWorld` scores pairs, steps and keeps. The
testbed's is :class:`klbench.rlhf.testbed.reward_world.RewardModels`, that of a language model
:class:`klbench.rlhf.language.reward_world.Rater`. A stack has any shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from klbench.rlhf.preferences import bradley_terry_loss

HELD_OUT = 5
"""Every so manyth pair is held out."""


@dataclass(frozen=True)
class Scored:
    """Preferences under the models of now.

    Parameters
    ----------
    chosen, rejected
        What each model says of the better and of the worse answer, ``(..., n)``, differentiable.
    weight
        Of each pair, to be spread over ``(..., n)``, 1 in sum over ``n``; None: all alike.
    """

    chosen: Tensor
    rejected: Tensor
    weight: Tensor | None = None

    def mean(self, values: Tensor) -> Tensor:
        """Over the pairs: ``(..., n)`` to ``(...)``."""
        return values.mean(-1) if self.weight is None else (values * self.weight).sum(-1)

    def loss(self, smoothing: float = 0.0) -> Tensor:
        """Bradley and Terry's, of each model: ``(...)``."""
        return self.mean(bradley_terry_loss(self.chosen, self.rejected, smoothing))

    def accuracy(self) -> Tensor:
        """Share of pairs that are ranked as they are labelled, ``(...)``.

        Equal scores count half.
        """
        return self.mean(0.5 * (1.0 + (self.chosen - self.rejected).detach().sign()))


class RewardWorld(Protocol):
    """The subjects of training, and the pairs."""

    def training(self, step: int) -> Scored:
        """The pairs of that step, under the models of now."""

    def held_out(self) -> Scored:
        """Pairs that are in no step; no gradient is needed."""

    def step(self, loss: Tensor, step: int) -> None:
        """One step of each model's optimiser down its own loss, ``(...)``."""

    def keep(self, better: Tensor) -> None:
        """Remember the models of now where that is so, ``(...)``, boolean."""


@dataclass(frozen=True)
class RewardReport:
    """Before the step of that number, each ``(...)``: on the step's pairs, and on those held out.

    ``kept`` is the step with the least loss on held-out pairs so far: there the world has kept the
    model.
    """

    step: int
    loss: Tensor
    accuracy: Tensor
    held_out_loss: Tensor
    held_out_accuracy: Tensor
    kept: Tensor


def train(
    world: RewardWorld, *, steps: int, every: int, smoothing: float = 0.0
) -> Iterator[RewardReport]:
    """Train by the Bradley-Terry loss, and evaluate the held-out pairs before every ``every`` steps
    and after the last one.

    (Ouyang et al. 2022, "Training language models to follow instructions with human feedback", eq.
    1.) More steps on the same pairs fit their labels' noise: of the models that were looked at, the
    one with the least held-out loss is kept.
    """
    least: Tensor | None = None
    for step in range(steps + 1):
        scored = world.training(step)
        loss = scored.loss(smoothing)
        if step % every == 0 or step == steps:
            with torch.no_grad():
                held_out = world.held_out()
                found = held_out.loss(smoothing)
                if least is None:
                    least, kept = torch.full_like(found, torch.inf), torch.zeros_like(found)
                better = found < least  # never where it is not a number
                least, kept = (
                    torch.where(better, found, least),
                    torch.where(better, float(step), kept),
                )
                world.keep(better)
            yield RewardReport(
                step, loss.detach(), scored.accuracy(), found, held_out.accuracy(), kept
            )
        if step < steps:
            world.step(loss, step)
