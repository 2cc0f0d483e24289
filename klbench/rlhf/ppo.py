"""PPO with a KL penalty, for a whole stack of replicas at once.

REINFORCE, GRPO and what trainers call so are settings of it.

    # clipped surrogate, leave-one-out baseline, 2 epochs
    python -m klbench +exp=ppo
    # no clip, 1 epoch: REINFORCE leave-one-out, RLOO
    python -m klbench +exp=ppo algorithm=reinforce
    # group mean, returns in units of their group's spread
    python -m klbench +exp=ppo algorithm=grpo
    # also verl_ppo, openrlhf_ppo: their losses and defaults
    python -m klbench +exp=ppo algorithm=trl_grpo

The loop knows nothing of what it trains: a :class:`PpoWorld` samples, scores and steps. The
testbed's is :class:`klbench.rlhf.testbed.ppo_world.Replicas`. A stack has shape ``(arms, seeds)``:
an arm is a combination and its ``beta``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from klbench.gradients.surrogate import centred
from klbench.rlhf import losses
from klbench.rlhf.options import Baseline, LoopOptions, Normalisation, TargetPer, Whitening
from klbench.rlhf.penalty import PenaltyArm, estimates, in_loss, standard_error
from klbench.rlhf.penalty import returns as penalty_returns
from klbench.types import Rollouts


@dataclass(frozen=True)
class PpoBatch:
    """Sequences that were sampled together, those of one prompt next to each other.

    Parameters
    ----------
    reward
        Of each sequence, ``(arms, seeds, n)``.
    mask
        Which tokens count, ``(arms, seeds, n, T)``.
    inputs
        What the world needs to score them again; not the loop's business.
    rows
        Which of the sampled sequences these are, ``(n,)``; None: all.
    """

    reward: Tensor
    mask: Tensor
    inputs: object
    rows: Tensor | None = None

    def take(self, rows: Tensor) -> PpoBatch:
        """Some of the sequences."""
        return PpoBatch(self.reward[..., rows], self.mask[..., rows, :], self.inputs, rows)


class PpoWorld(Protocol):
    """The subjects of training: policies, their references, and the source of the reward."""

    def sample(self, update: int, lag: int) -> PpoBatch:
        """Sequences from the policies of ``lag`` updates ago."""

    def rollouts(self, batch: PpoBatch) -> Rollouts:
        """The batch under the policies of now, ``(arms, seeds, n, T)``.

        ``log_q`` and ``kl`` can be differentiated.
        """

    def values(self, batch: PpoBatch) -> Tensor:
        """The critics' values before each token, ``(arms, seeds, n, T)``, differentiable.

        Only with a critic.
        """

    def order(self, update: int, epoch: int, n: int) -> Tensor:
        """The order, ``(n,)``, in which an epoch goes through its sequences."""

    def step(self, loss: Tensor, update: int) -> None:
        """One step of each replica's optimiser down its own loss, ``(arms, seeds)``."""


@dataclass(frozen=True)
class Recipe:
    """Settings of the loop.

    Parameters
    ----------
    updates, epochs, minibatches
        Batches that are sampled, passes over each, and the parts that a pass is cut into.
    group
        Sequences of one prompt.
    clip, dual_clip, ratio_limit
        Of the probability ratio, and the largest one of a token whose advantage is negative; the
        largest absolute log-ratio that either sees. None: none.
    baseline, whitening, normalisation
        See :mod:`klbench.rlhf.losses`. A critic takes the baseline's place.
    critic, trace, value_weight, value_clip
        Whether values are learned and advantages made by GAE, its lambda (the discount is 1), the
        weight of the value loss, and how far a value may go from what it was before its loss does
        not see it (None: any). One optimiser has both.
    lag
        How many updates ago the sampler was the policy.
    clamp
        Largest log-ratio, in nats, that the penalty sees, gradient included; None: as it is.
    target_kl
        With it, ``beta`` follows Ziegler's controller on the penalty's own estimate, a step an
        update.
    kl_horizon, target_per
        Sequences within which the controller multiplies ``beta`` by about ``exp(0.2)`` at most
        (None: a gain of 0.1 an update); whether target and estimate are nats of a whole
        ``sequence``, or the mean over the batch's tokens, ``token``.
    pretraining_weight
        ``gamma`` of the term ``gamma E[log pi(x)]`` over pretraining sequences; 0: none. (Ouyang et
        al. 2022, "Training language models to follow instructions with human feedback", eq. 2.)
    every
        Updates between two reports.
    """

    updates: int = 200
    epochs: int = 2
    minibatches: int = 1
    group: int = 8
    clip: float | None = 0.2
    dual_clip: float | None = None
    ratio_limit: float | None = None
    baseline: Baseline = "leave_one_out"
    whitening: Whitening = "none"
    normalisation: Normalisation = "sum"
    critic: bool = False
    trace: float = 0.95
    value_weight: float = 0.5
    value_clip: float | None = None
    lag: int = 0
    clamp: float | None = None
    target_kl: float | None = None
    kl_horizon: float | None = None
    target_per: TargetPer = "sequence"
    pretraining_weight: float = 0.0
    every: int = 10

    def __post_init__(self) -> None:
        for name in ("target_kl", "kl_horizon"):
            value = getattr(self, name)
            if value is not None and not value > 0.0:
                raise ValueError(f"{name}={value:g}: must be above 0")

    @classmethod
    def of(cls, options: LoopOptions, **changes: Any) -> Self:
        """Return the recipe that settings name.

        What they leave out, and ``changes``, as given here or by default.
        """
        named = {
            name: getattr(options, name)
            for name in cls.__dataclass_fields__
            if hasattr(options, name)
        }
        return cls(**named | changes)

    @property
    def steps(self) -> int:
        """Steps of the optimiser in the whole training."""
        return self.updates * self.epochs * self.minibatches


@dataclass(frozen=True)
class PpoReport:
    """The statistics that training itself can see, before the update of that number.

    Each ``(arms, seeds)``.

    ``kl_estimate`` and its standard error, for the prompts of the batch, in nats a sequence, are
    the arm's own estimator's; the shares of tokens are those that the clip cut off, on average
    since the last report, and that a clamp does, in this batch. ``loss_beta``, on average since the
    last report, is what a penalty in the loss weighs against the reward: ``beta`` times what
    whitening has divided the advantages by.
    """

    update: int
    beta: Tensor
    kl_estimate: Tensor
    kl_estimate_se: Tensor
    sampled_reward: Tensor
    clip_fraction: Tensor
    clamp_fraction: Tensor
    loss_beta: Tensor


def train(
    world: PpoWorld,
    arms: Sequence[PenaltyArm],
    recipe: Recipe,
    pretraining: Callable[[int], Tensor] | None = None,
    start: int = 0,
    beta: Tensor | None = None,
) -> Iterator[PpoReport]:
    """Train, and yield a report before every ``every`` updates and after the last one.

    ``pretraining``, which a weight for it needs, gives the policies' mean log-probability of an
    update's pretraining sequences, ``(arms, seeds)``, differentiable. A world that was kept at a
    report goes on from its number, ``start``, and its ``beta``: the first report is that one again.
    """
    if recipe.pretraining_weight and pretraining is None:
        raise ValueError("pretraining_weight needs pretraining sequences, got none")
    clips: list[Tensor] = []
    weights: list[Tensor] = []
    for update in range(start, recipe.updates + 1):
        batch = world.sample(update, recipe.lag)
        with torch.set_grad_enabled(
            recipe.minibatches == 1
        ):  # the first step needs no second pass through the policy
            first = world.rollouts(batch)
        before = first.each(Tensor.detach)
        values = world.values(batch).detach() if recipe.critic else None
        if beta is None:
            beta = torch.tensor([[each.beta] for each in arms], dtype=before.log_q.dtype).expand(
                batch.reward.shape[:2]
            )
        if update % recipe.every == 0 or update == recipe.updates:
            kl, cut = estimates(arms, before, recipe.clamp)
            clipped = torch.stack(clips).mean(0) if clips else torch.zeros_like(beta)
            weight = torch.stack(weights).mean(0) if weights else beta
            error = standard_error(kl, recipe.group)
            yield PpoReport(
                update, beta, kl.mean(-1), error, batch.reward.mean(-1), clipped, cut, weight
            )
            clips, weights = [], []
        if update == recipe.updates:
            return

        # The penalty in the return and the baselines are constants of the update, as the sampler's
        # log-probabilities are.
        plain, targets, scored = _advantages(arms, recipe, beta, batch, before, values)
        advantage = losses.whitened(plain, batch.mask, recipe.group, recipe.whitening)
        weights.append(beta * losses.unit(plain, advantage, batch.mask))
        for epoch in range(recipe.epochs):
            for rows in world.order(update, epoch, batch.reward.shape[-1]).chunk(
                recipe.minibatches
            ):
                part = batch.take(rows)
                mask, here = part.mask, advantage[..., rows, :]
                untouched = (
                    epoch == 0 and recipe.minibatches == 1
                )  # the policy is still the one that was just asked
                rollouts = (
                    first.each(itemgetter((..., rows, slice(None))))
                    if untouched
                    else world.rollouts(part)
                )
                log_ratio = rollouts.log_q - rollouts.log_mu
                gain = losses.clipped_surrogate(
                    log_ratio, here, recipe.clip, recipe.dual_clip, recipe.ratio_limit
                )
                penalty = in_loss(arms, rollouts, recipe.clamp)
                # A return with an off-policy weight of its own is not weighted by the clipped ratio
                # as well.
                weighted = penalty.weights * scored[..., rows, :] * rollouts.log_q
                loss = losses.reduced(
                    beta[..., None, None] * weighted - gain, mask, recipe.normalisation
                )
                loss = loss + beta * losses.reduced_sequences(
                    penalty.direct, mask, recipe.normalisation
                )
                if pretraining is not None and recipe.pretraining_weight:
                    loss = loss - recipe.pretraining_weight * pretraining(update)
                if values is not None and targets is not None:
                    now, old = world.values(part), values[..., rows, :]
                    error = losses.value_loss(now, targets[..., rows, :], old, recipe.value_clip)
                    loss = loss + recipe.value_weight * losses.reduced(
                        error, mask, recipe.normalisation
                    )
                active = (
                    losses.clip_active(log_ratio.detach(), here, recipe.clip, recipe.dual_clip)
                    & mask
                )
                clips.append(active.sum((-2, -1)) / mask.sum((-2, -1)))
                world.step(loss, update)
        if recipe.target_kl is not None:
            kl = estimates(arms, before, recipe.clamp)[0]
            beta = _steered(beta, kl, batch.mask, recipe, recipe.target_kl)


def _steered(beta: Tensor, kl: Tensor, mask: Tensor, recipe: Recipe, target: float) -> Tensor:
    """Return beta after the controller's step, from each sequence's estimate ``(arms, seeds,
    n)``.
    """
    whole = recipe.target_per == "sequence"
    seen = kl.mean(-1) if whole else kl.sum(-1) / mask.sum((-2, -1))
    if recipe.kl_horizon is None:
        return losses.adapted_beta(beta, seen, target)
    gain = losses.controller_gain(kl.shape[-1], recipe.kl_horizon)
    return losses.adapted_beta(beta, seen, target, gain)


def _advantages(
    arms: Sequence[PenaltyArm],
    recipe: Recipe,
    beta: Tensor,
    batch: PpoBatch,
    before: Rollouts,
    values: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Advantages ``(arms, seeds, n, T)``, what the critic should have said, and returns that have
    weights of their own.

    The return is ``r - beta * penalty``; a baseline and a weight that the penalty's combination
    names, it keeps. Advantages are in units of the reward, not whitened.
    """
    group = recipe.group
    penalty = penalty_returns(arms, before, group, recipe.clamp)
    own, corrected = (flag[:, None, None, None] for flag in (penalty.owned, penalty.corrected))
    less = torch.where(own, penalty.values, centred(penalty.values, group, recipe.baseline))
    merged = torch.where(
        corrected, 0.0, beta[..., None, None] * (less if values is None else penalty.values)
    )
    if values is None:
        advantage, targets = centred(batch.reward[..., None], group, recipe.baseline) - merged, None
    else:
        # Rewards a token: what the return loses from one token to the next; the last one has the
        # sequence's reward.
        alive = batch.mask.to(merged.dtype)
        following = torch.cat([alive[..., 1:], torch.zeros_like(alive[..., :1])], dim=-1)
        later = torch.cat([merged[..., 1:], torch.zeros_like(merged[..., :1])], dim=-1) * following
        rewards = (alive - following) * batch.reward[..., None] - (merged * alive - later)
        advantage = losses.gae(rewards, values, batch.mask, discount=1.0, trace=recipe.trace)
        targets = advantage + values
    return advantage, targets, less
