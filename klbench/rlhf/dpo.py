"""DPO from preferences, for a whole stack of replicas at once; f-DPO and conservative DPO are arms of it.

    python -m klbench +exp=dpo                                   # number of pairs, divergences, smoothing
    python -m klbench +exp=dpo 'divergences=[kl_qp]' batch=64    # standard DPO, in minibatches

The loop knows nothing of what it trains: a :class:`DpoWorld` scores preferences and steps. The testbed's is
:class:`klbench.rlhf.testbed.dpo_world.PreferenceReplicas`. A stack has shape ``(arms, seeds)``: an arm is a loss; a single
model is a stack of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from klbench.rlhf.options import DpoArm
from klbench.rlhf.preferences import bradley_terry_loss, implicit_reward


@dataclass(frozen=True)
class DpoBatch:
    """Preferences under the policies of now.

    Parameters
    ----------
    chosen, rejected
        ``log pi/ref`` of whole sequences, ``(arms, seeds, n)``, in nats, differentiable.
    wrong
        Probability that the label is the other way round, ``(seeds, n)``; None: labels are as they are.
    weight
        Of each pair, ``(seeds, n)``, 1 in sum over ``n``; None: all alike.
    """

    chosen: Tensor
    rejected: Tensor
    wrong: Tensor | None = None
    weight: Tensor | None = None

    def mean(self, values: Tensor) -> Tensor:
        """Over the pairs: ``(..., n)`` to ``(...)``."""
        return values.mean(-1) if self.weight is None else (values * self.weight).sum(-1)


class DpoWorld(Protocol):
    """The subjects of training: policies, their references, and preferences."""

    def log_ratios(self, step: int) -> DpoBatch:
        """The pairs of that step under the policies of now."""

    def step(self, loss: Tensor, step: int) -> None:
        """One step of each replica's optimiser down its own loss, ``(arms, seeds)``."""


@dataclass(frozen=True)
class DpoReport:
    """The statistics of the step's pairs that training itself sees, before that step; each ``(arms, seeds)``.

    ``accuracy`` is the share of pairs that the implicit reward ranks as they are labelled, where equal rewards count half;
    ``margin`` the mean difference of implicit rewards.
    """

    step: int
    loss: Tensor
    accuracy: Tensor
    margin: Tensor


def train(
    world: DpoWorld, arms: Sequence[DpoArm], *, steps: int, every: int, start: int = 0
) -> Iterator[DpoReport]:
    """Train, and yield a report before every ``every`` steps and after the last one."""
    for step in range(start, steps + 1):
        report = judged(arms, world.log_ratios(step), step)
        if step % every == 0 or step == steps:
            yield replace(report, loss=report.loss.detach())
        if step < steps:
            world.step(report.loss, step)


def judged(arms: Sequence[DpoArm], batch: DpoBatch, step: int = 0) -> DpoReport:
    """The arms' losses on a batch, differentiable, and what else there is to say of it."""
    losses, margins = [], []
    for i, arm in enumerate(arms):
        # In float64, lest two rewards that float32 cannot hold have no difference.
        both = (each[i].double() for each in (batch.chosen, batch.rejected))
        chosen, rejected = (implicit_reward(each, arm.beta, arm.divergence) for each in both)
        loss = bradley_terry_loss(chosen, rejected, arm.smoothing)
        if (
            batch.wrong is not None
        ):  # by its other label too: linear in the label, so is its expectation
            loss = loss + batch.wrong * (bradley_terry_loss(rejected, chosen, arm.smoothing) - loss)
        losses.append(loss)
        margins.append((chosen - rejected).detach())
    margin = torch.stack(margins)
    right = 0.5 * (1.0 + margin.sign())
    if batch.wrong is not None:
        right = right + batch.wrong * (1.0 - 2.0 * right)
    return DpoReport(step, batch.mean(torch.stack(losses)), batch.mean(right), batch.mean(margin))
