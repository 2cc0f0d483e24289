"""The aim of a preference loss: each divergence's own best policy, and the reward that a policy implies, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from klbench import divergences
from klbench.rlhf.dpo import judged
from klbench.rlhf.options import DpoArm
from klbench.rlhf.preferences import implicit_reward
from klbench.rlhf.testbed import Testbed
from klbench.rlhf.testbed.dpo_world import Preferences, ratios
from klbench.rlhf.testbed.expected import log_probs
from klbench.rlhf.testbed.fixed_points import conditionals
from klbench.types import Draws, RunError

BISECTIONS = 60
NEWTON_STEPS = 50


def population_rewards(testbed: Testbed, scale: float, wrong: float = 0.0) -> Tensor:
    """The rewards that fit the population's labels best, ``(seeds, prompts, leaves)``: least Bradley-Terry loss, by Newton.

    ``wrong`` is the share of labels that are flipped, or that the loss takes to be, or both together: ``a + b - 2 a b``. With
    none these are ``scale * r``; with some no rewards have the labels' probabilities, and these are the nearest.

    Raises
    ------
    klbench.types.RunError
        The steps did not come to rest.
    """
    p, true = testbed.leaf_log_p.exp(), scale * testbed.reward
    if wrong == 0.0:
        return true
    target = wrong + (1.0 - 2.0 * wrong) * torch.sigmoid(true[..., :, None] - true[..., None, :])
    found = torch.zeros_like(true)
    for _ in range(NEWTON_STEPS):
        share = torch.sigmoid(found[..., :, None] - found[..., None, :])
        # Each row is divided by its own p; what is added to the Hessian keeps the weighted mean of the rewards.
        slope = share * (1.0 - share) * p[..., None, :]
        gradient = ((share - target) * p[..., None, :]).sum(-1)
        hessian = torch.diag_embed(slope.sum(-1)) - slope + p[..., None, :]
        change = torch.linalg.solve(hessian, gradient)
        largest = change.abs().amax(-1, keepdim=True)
        found = found - change / largest.clamp(min=1.0)  # further off the curvature is another one
        if float(largest.max()) < 1e-10:
            return found
    raise RunError(
        f"rewards for labels of which {wrong} are wrong: no rest after {NEWTON_STEPS} steps of Newton's"
    )


def optimum(testbed: Testbed, divergence: str, rewards: Tensor) -> Tensor:
    """``log pi`` of every sequence for the largest ``E_pi[rewards] - D_f``; both ``(seeds, prompts, leaves)``.

    There ``phi'(pi/ref) = rewards - l`` with the ``l`` of each prompt for which ``pi`` sums to one: by bisection in
    ``log pi/ref`` of the best sequence, and for each in that of all others. (Wang et al. 2024, theorem 1.)
    """
    log_p = testbed.leaf_log_p
    slope = divergences.get(divergence).slope
    best, where = rewards.max(-1, keepdim=True)
    gap = best - rewards

    def others(top: Tensor) -> Tensor:
        # Not by l: where phi' is bounded the best sequence is so near the bound that the difference would be lost.
        wanted = slope(-top) - gap
        low, high = torch.full_like(gap, -1.0), top.expand_as(gap)
        while bool((slope(-low) > wanted).any()) and float(low.min()) > -1e6:
            low = 2.0 * low
        for _ in range(BISECTIONS):
            middle = (low + high) / 2.0
            less = slope(-middle) < wanted
            low, high = torch.where(less, middle, low), torch.where(less, high, middle)
        return torch.where(gap == 0.0, top, (low + high) / 2.0)

    # The best sequence is no rarer than under the reference, and not above one.
    low, high = torch.zeros_like(best), -log_p.gather(-1, where)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2.0
        much = (log_p + others(middle)).logsumexp(-1, keepdim=True) > 0.0
        low, high = torch.where(much, low, middle), torch.where(much, middle, high)
    return (log_p + others((low + high) / 2.0)).log_softmax(-1)


def divergence_of(testbed: Testbed, log_q: Tensor, divergence: str) -> Tensor:
    """``D_f = E_q[f(ref/q)]``, a mean over prompts: ``(..., seeds, prompts, leaves)`` to ``(..., seeds)``."""
    gap: Tensor = divergences.get(divergence).gap(Draws(testbed.leaf_log_p - log_q))
    return (log_q.exp() * gap).sum(-1).mean(-1)


class Fit(NamedTuple):
    """The regression of the implicit reward on the true one, each centred by prompt: ``(arms, seeds)``."""

    slope: Tensor
    correlation: Tensor


def fit(
    testbed: Testbed, arms: Sequence[DpoArm], log_q: Tensor, scale: float, weight: Tensor
) -> Fit:
    """Regression of ``beta_dpo phi'(pi/ref)`` on ``scale * r`` over the sequences of all prompts.

    ``log_q`` is ``(arms, seeds, prompts, leaves)``, and so, or as far as it spreads over that, are the weights, which sum to
    one over a prompt's sequences. At an arm's own optimum both numbers are one.
    """
    log_ratio = log_q - testbed.leaf_log_p
    implied = torch.stack(
        [implicit_reward(log_ratio[i], arm.beta, arm.divergence) for i, arm in enumerate(arms)]
    )
    true = (scale * testbed.reward).expand_as(implied)

    def centred(values: Tensor) -> Tensor:
        return values - (weight * values).sum(-1, keepdim=True)

    implied, true = centred(implied), centred(true)
    both, own, other = (
        (weight * a * b).sum((-2, -1))
        for a, b in ((implied, true), (implied, implied), (true, true))
    )
    return Fit(both / other, both / (own * other).sqrt())


def population_gradient(
    testbed: Testbed, arms: Sequence[DpoArm], log_q: Tensor, preferences: Preferences
) -> Tensor:
    """Norm of the population loss's gradient at policies over that at the reference, ``(arms, seeds)``.

    With respect to a logit for every token after every prefix; ``log_q`` is ``(arms, seeds, prompts, leaves)``.
    """
    reference = testbed.log_p.expand(len(arms), -1, -1, -1, -1)
    norms = []
    for start in (conditionals(testbed, log_q), reference):
        theta = start.flatten(2).detach().requires_grad_()
        leaves = testbed.tree.sum_along(log_probs(testbed, theta, free=True))
        (gradient,) = torch.autograd.grad(
            judged(arms, ratios(testbed, leaves, preferences)).loss.sum(), theta
        )
        norms.append(gradient.norm(dim=-1))
    return norms[0] / norms[1]
