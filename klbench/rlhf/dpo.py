"""Losses of ranked pairs, DPO and its relatives, for a whole stack of replicas at once.

    # number of pairs, divergences, smoothing
    python -m klbench +exp=dpo
    # standard DPO, in minibatches
    python -m klbench +exp=dpo 'divergences=[kl_qp]' batch=64
    python -m klbench +exp=dpo 'losses=[ipo,hinge,chipo,kto,dpo_norm,simpo]'

The loop knows nothing of what it trains: a :class:`DpoWorld` scores preferences and steps. The
testbed's is :class:`klbench.rlhf.testbed.dpo_world.PreferenceReplicas`. A stack has shape ``(arms,
seeds)``: an arm is a loss; a single model is a stack of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from klbench.rlhf.options import DpoArm
from klbench.rlhf.preferences import (
    bradley_terry_loss,
    hinge_loss,
    implicit_reward,
    ipo_loss,
    kto_loss,
    kto_reference_point,
    per_token,
)


@dataclass(frozen=True)
class Details:
    """The facts about a step's pairs that only some losses need.

    Parameters
    ----------
    log_p
        ``log ref`` of the better and of the worse answers, each ``(seeds, n)``.
    tokens
        Their lengths, likewise.
    mismatched
        Returns ``log pi/ref`` of answers to other prompts, ``(arms, seeds, m)``, for the arms of
        that slice.
    """

    log_p: tuple[Tensor, Tensor]
    tokens: tuple[Tensor, Tensor]
    mismatched: Callable[[slice], Tensor]


@dataclass(frozen=True)
class DpoBatch:
    """Preferences under the policies of now.

    Parameters
    ----------
    chosen, rejected
        ``log pi/ref`` of whole sequences, ``(arms, seeds, n)``, in nats, differentiable.
    wrong
        Probability that the label is the other way round, ``(seeds, n)``; None: labels are as they
        are.
    weight
        Of each pair, ``(seeds, n)``, 1 in sum over ``n``; None: all alike.
    details
        Makes the details, for losses that need them.
    """

    chosen: Tensor
    rejected: Tensor
    wrong: Tensor | None = None
    weight: Tensor | None = None
    details: Callable[[], Details] | None = None

    def mean(self, values: Tensor) -> Tensor:
        """Over the pairs: ``(..., n)`` to ``(...)``."""
        return values.mean(-1) if self.weight is None else (values * self.weight).sum(-1)

    def detailed(self, loss: str) -> Details:
        """Return the details, which a loss of that name needs.

        Raises
        ------
        ValueError
            The batch has none.
        """
        if self.details is None:
            raise ValueError(f"{loss} needs the details of pairs, and this batch has none")
        return self.details()


class DpoWorld(Protocol):
    """The subjects of training: policies, their references, and preferences."""

    def log_ratios(self, step: int) -> DpoBatch:
        """The pairs of that step under the policies of now."""

    def step(self, loss: Tensor, step: int) -> None:
        """One step of each replica's optimiser down its own loss, ``(arms, seeds)``."""


@dataclass(frozen=True)
class DpoReport:
    """The statistics of the step's pairs that training itself sees, before that step.

    Each ``(arms, seeds)``.

    ``accuracy`` is the share of pairs that the implicit reward ranks as they are labelled, where
    equal rewards count half; ``margin`` the mean difference of implicit rewards.
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
        with torch.set_grad_enabled(step < steps):  # no step follows the last report
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
        chosen, rejected = rewards(arm, batch, i)
        pair_loss = _pair_loss(arm, batch, i)
        loss = pair_loss(chosen, rejected)
        if (
            batch.wrong is not None
        ):  # by its other label too: linear in the label, so is its expectation
            loss = loss + batch.wrong * (pair_loss(rejected, chosen) - loss)
        losses.append(loss)
        margins.append((chosen - rejected).detach())
    margin = torch.stack(margins)
    right = 0.5 * (1.0 + margin.sign())
    if batch.wrong is not None:
        right = right + batch.wrong * (1.0 - 2.0 * right)
    return DpoReport(step, batch.mean(torch.stack(losses)), batch.mean(right), batch.mean(margin))


def implied_reward(arm: DpoArm, log_ratio: Tensor, log_p: Tensor, tokens: Tensor) -> Tensor:
    """Return the reward that a policy implies by an arm's loss, up to a constant of the prompt."""
    if arm.score == "ratio":
        return implicit_reward(log_ratio, arm.beta, arm.divergence)
    whole = log_ratio + log_p if arm.score == "log_prob_per_token" else log_ratio
    return per_token(whole, tokens, arm.beta)


def rewards(arm: DpoArm, batch: DpoBatch, i: int) -> tuple[Tensor, Tensor]:
    """Return the rewards that arm number ``i`` implies of the better and of the worse answers,
    float64, ``(seeds, n)``.
    """
    both = batch.chosen[i].double(), batch.rejected[i].double()
    if arm.score == "ratio":
        first, second = (implicit_reward(each, arm.beta, arm.divergence) for each in both)
    else:
        more = batch.detailed(arm.name)
        first, second = (
            implied_reward(arm, ratio, log_p, tokens)
            for ratio, log_p, tokens in zip(both, more.log_p, more.tokens, strict=True)
        )
    return first, second


def _pair_loss(arm: DpoArm, batch: DpoBatch, i: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return an arm's loss of pairs as a function of the rewards that it implies."""
    if arm.loss == "sigmoid":
        return lambda better, worse: bradley_terry_loss(better - arm.margin, worse, arm.smoothing)
    if arm.loss == "hinge":
        return lambda better, worse: hinge_loss(better, worse, 1.0)
    if arm.loss == "ipo":
        return lambda better, worse: ipo_loss(better / arm.beta, worse / arm.beta, arm.beta)
    point = kto_reference_point([batch.detailed(arm.name).mismatched(slice(i, i + 1))[0].double()])
    at = arm.beta * point[..., None]

    def both(better: Tensor, worse: Tensor) -> Tensor:
        desirable, undesirable = kto_loss(better, worse, at, 1.0)
        return (desirable + undesirable) / 2.0

    return both
