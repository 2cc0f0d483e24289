"""The aim of a preference loss.

Each divergence's own best policy, and the reward that a policy implies, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from klbench import divergences
from klbench.rlhf.dpo import implied_reward, judged
from klbench.rlhf.options import DpoArm
from klbench.rlhf.testbed import Testbed, bisected
from klbench.rlhf.testbed.dpo_world import Preferences, ratios
from klbench.rlhf.testbed.expected import log_probs
from klbench.rlhf.testbed.fixed_points import conditionals
from klbench.types import Draws, RunError

NEWTON_STEPS = 50


def preferred(testbed: Testbed, scale: float, wrong: float = 0.0) -> Tensor:
    """``P(y > y')`` of labels of which a share ``wrong`` is turned round, ``(seeds, prompts,
    leaves, leaves)``.
    """
    true = scale * testbed.reward
    return wrong + (1.0 - 2.0 * wrong) * torch.sigmoid(true[..., :, None] - true[..., None, :])


def population_rewards(
    testbed: Testbed, scale: float, wrong: float = 0.0, margin: float = 0.0
) -> Tensor:
    """The rewards that fit the population's labels best, ``(seeds, prompts, leaves)``.

    Least Bradley-Terry loss, by Newton.

    ``wrong`` is the share of labels that are flipped, or that the loss takes to be, or both
    together: ``a + b - 2 a b``. With none these are ``scale * r``; with some no rewards have the
    labels' probabilities, and these are the nearest. With a ``margin`` the loss is ``-log sigma(r_w
    - r_l - margin)``.

    Raises
    ------
    klbench.types.RunError
        The steps did not come to rest.
    """
    p, true = testbed.leaf_log_p.exp(), scale * testbed.reward
    if wrong == 0.0 and margin == 0.0:
        return true
    target = preferred(testbed, scale, wrong)
    found = torch.zeros_like(true)
    for _ in range(NEWTON_STEPS):
        gap = found[..., :, None] - found[..., None, :]
        # Of the label as it is, and of the other one.
        ahead, behind = torch.sigmoid(margin - gap), torch.sigmoid(margin + gap)
        curvature = target * ahead * (1.0 - ahead) + (1.0 - target) * behind * (1.0 - behind)
        # Each row is divided by its own p; what is added to the Hessian keeps the weighted mean of
        # the rewards.
        slope = curvature * p[..., None, :]
        gradient = (((1.0 - target) * behind - target * ahead) * p[..., None, :]).sum(-1)
        hessian = torch.diag_embed(slope.sum(-1)) - slope + p[..., None, :]
        change = torch.linalg.solve(hessian, gradient)
        largest = change.abs().amax(-1, keepdim=True)
        found = found - change / largest.clamp(min=1.0)  # further off the curvature is another one
        if float(largest.max()) < 1e-10:
            return found
    raise RunError(
        f"rewards for labels of which {wrong} are wrong: no rest after {NEWTON_STEPS} steps of"
        " Newton's"
    )


def hinge_rewards(testbed: Testbed, scale: float, wrong: float = 0.0) -> Tensor:
    """Rewards of the least population hinge loss, ``(seeds, prompts, leaves)``.

    Whole numbers, by shortest path.

    The loss is convex and piecewise linear in differences of rewards, so whole numbers are among
    its minima; and one that rises with the true reward is. Between neighbours in that order there
    is a step or not. A pair in one block costs 1, one that ``d`` steps part ``(1 - P)(1 + d)``. So
    the cost is a sum over blocks, of ``w w' P`` of their pairs, and over steps, of ``w w' (1 - P)``
    of the pairs that they part, and the best blocks are a shortest path. (Own derivation.)
    """
    found = torch.zeros_like(testbed.reward)
    label, weight = preferred(testbed, scale, wrong), testbed.leaf_log_p.exp()
    for place in np.ndindex(*testbed.reward.shape[:-1]):
        order = testbed.reward[place].argsort(stable=True)
        w = weight[place][order].numpy()
        # Of each pair, the lower one first: how often it is labelled as it is, and how often not.
        right = label[place][order][:, order].numpy().T * np.outer(w, w)
        found[place][order] = torch.from_numpy(_levels(np.triu(right, 1), np.triu(right.T, 1)))
    return found


def _levels(right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """The level of each answer in their order, of the blocks that cost least."""
    n = len(right)
    # What lies within the block [i, j), and what a step before j parts.
    above = np.zeros((n + 1, n + 1))
    above[1:, 1:] = right.cumsum(0).cumsum(1)
    parted = np.array([wrong[:j, j:].sum() for j in range(n)])
    least, start = np.zeros(n + 1), np.zeros(n + 1, dtype=int)
    for j in range(1, n + 1):
        within = above[j, j] - above[:j, j] - above[j, :j] + np.diag(above)[:j]
        cost = least[:j] + np.where(np.arange(j) > 0, parted[:j], 0.0) + within
        start[j] = int(cost.argmin())
        least[j] = cost[start[j]]
    steps, j = np.zeros(n), n
    while j > 0:
        j = start[j]
        steps[j] += j > 0
    return steps.cumsum()


def arm_optimum(testbed: Testbed, arm: DpoArm, scale: float, flips: float = 0.0) -> Tensor:
    """``log pi`` of every sequence at the exact minimum of an arm's loss on all pairs, ``(seeds,
    prompts, leaves)``.

    First the rewards that are best by the loss of pairs, then the policy that implies them. Of IPO
    the rewards are ``P(y > y') - 1/2``, ``y' ~ ref``. :data:`LOG_ZERO` stands for a probability of
    0; all is NaN where none is known: KTO with a ``beta`` above 1, of which the loss is not convex.
    """
    wrong = arm.smoothing + flips - 2.0 * arm.smoothing * flips
    if arm.loss == "kto":
        return kto_optimum(testbed, arm.beta, scale, wrong)
    if arm.loss == "ipo":
        often = preferred(testbed, scale, wrong)
        best = (often * testbed.leaf_log_p.exp()[..., None, :]).sum(-1) - 0.5
    elif arm.loss == "hinge":
        best = hinge_rewards(testbed, scale, wrong)
    else:
        best = population_rewards(testbed, scale, wrong, arm.margin)
    if arm.score == "ratio":
        return optimum(testbed, arm.divergence, best / arm.beta)
    start = testbed.leaf_log_p if arm.score == "ratio_per_token" else torch.zeros_like(best)
    return by_length(start, best, testbed.tree.lengths, arm.beta)


def by_length(start: Tensor, rewards: Tensor, tokens: Tensor, beta: float) -> Tensor:
    """``start + |y| (rewards + c) / beta`` with the ``c`` of each prompt for which it sums to
    one, by bisection.
    """
    best, worst = rewards.amax(-1, keepdim=True), rewards.amin(-1, keepdim=True)
    low, high = -best - beta * math.log(rewards.shape[-1]), -worst

    def policy(shift: Tensor) -> Tensor:
        return start + tokens * (rewards + shift) / beta

    return policy(bisected(lambda shift: ~_too_much(policy(shift)), low, high)).log_softmax(-1)


def _too_much(log_q: Tensor) -> Tensor:
    """Tell where probabilities sum to more than one."""
    return log_q.logsumexp(-1, keepdim=True) > 0.0


LOG_ZERO = -1e4
"""The logarithm that stands for a probability of 0: its exponential is 0, and 0 times it too."""
LEAST_LOG = -700.0


def kto_optimum(testbed: Testbed, beta: float, scale: float, wrong: float = 0.0) -> Tensor:
    """``log pi`` at the minimum of KTO's loss on all answers, ``(seeds, prompts, leaves)``.

    NaN for a ``beta`` above 1.

    The loss is ``-E_ref[a sigma(beta log t)]`` and a constant, ``t = pi/ref`` and ``a = 2 P(y is
    desirable) - 1``, with the reference point at 0, where the clamp has it. An answer with ``a <=
    0`` gets probability 0. For ``beta <= 1`` the rest is concave in ``t``, so ``a beta sigma(beta
    log t) sigma(-beta log t) / t`` is the same for all that have some. (Own derivation, by
    Lagrange.)
    """
    p = testbed.leaf_log_p
    often = (preferred(testbed, scale, wrong) * p.exp()[..., None, :]).sum(-1)
    if beta > 1.0:
        return torch.full_like(p, math.nan)
    good = often > 0.5
    log_a = torch.where(good, 2.0 * often - 1.0, 1.0).log()

    def price(at: Tensor) -> Tensor:
        return log_a + logsigmoid(beta * at) + logsigmoid(-beta * at) - at

    def taken(log_price: Tensor) -> Tensor:
        least = torch.full_like(p, LEAST_LOG)
        found = bisected(lambda at: price(at) > log_price, least, -p)
        return torch.where(good & (price(least) > log_price), p + found, LOG_ZERO)

    low = price(-p).where(good, math.inf).amin(-1, keepdim=True)
    high = torch.full_like(low, -LEAST_LOG)
    found = taken(bisected(lambda log_price: _too_much(taken(log_price)), low, high))
    return torch.where(found > LOG_ZERO, found - found.logsumexp(-1, keepdim=True), LOG_ZERO)


def divergence_of(testbed: Testbed, log_q: Tensor, divergence: str) -> Tensor:
    """``D_f = E_q[f(ref/q)]``, a mean over prompts.

    ``(..., seeds, prompts, leaves)`` to ``(..., seeds)``.
    """
    gone = log_q <= LOG_ZERO
    log_ratio = torch.where(gone, 0.0, testbed.leaf_log_p - log_q)
    gap: Tensor = divergences.get(divergence).gap(Draws(log_ratio))
    terms = log_q.exp() * gap
    if bool(gone.any()):  # where q has none, each unit of the reference's probability adds this
        terms = torch.where(
            gone, divergences.unreached(divergence) * testbed.leaf_log_p.exp(), terms
        )
    return terms.sum(-1).mean(-1)


def optimum(testbed: Testbed, divergence: str, rewards: Tensor) -> Tensor:
    """``log pi`` of every sequence for the largest ``E_pi[rewards] - D_f``.

    Both ``(seeds, prompts, leaves)``.

    There ``phi'(pi/ref) = rewards - l`` with the ``l`` of each prompt for which ``pi`` sums to one:
    by bisection in ``log pi/ref`` of the best sequence, and for each in that of all others. (Wang
    et al. 2024, theorem 1.)
    """
    log_p = testbed.leaf_log_p
    slope = divergences.get(divergence).slope
    best, where = rewards.max(-1, keepdim=True)
    gap = best - rewards

    def others(top: Tensor) -> Tensor:
        # Not by l: where phi' is bounded the best sequence is so near the bound that the difference
        # would be lost.
        wanted = slope(-top) - gap
        low, high = torch.full_like(gap, -1.0), top.expand_as(gap)
        while bool((slope(-low) > wanted).any()) and float(low.min()) > -1e6:
            low = 2.0 * low
        found = bisected(lambda at: slope(-at) < wanted, low, high)
        return torch.where(gap == 0.0, top, found)

    # The best sequence is no rarer than under the reference, and not above one.
    highest = -log_p.gather(-1, where)
    found = bisected(lambda top: ~_too_much(log_p + others(top)), torch.zeros_like(best), highest)
    return (log_p + others(found)).log_softmax(-1)


class Fit(NamedTuple):
    """The regression of the implicit reward on the true one, each centred by prompt.

    ``(arms, seeds)``.
    """

    slope: Tensor
    correlation: Tensor


def fit(
    testbed: Testbed, arms: Sequence[DpoArm], log_q: Tensor, scale: float, weight: Tensor
) -> Fit:
    """Regression of ``beta_dpo phi'(pi/ref)`` on ``scale * r`` over the sequences of all prompts.

    ``log_q`` is ``(arms, seeds, prompts, leaves)``, and so, or as far as it spreads over that, are
    the weights, which sum to one over a prompt's sequences. At an arm's own optimum both numbers
    are one.
    """
    log_ratio = log_q - testbed.leaf_log_p
    log_p, tokens = testbed.leaf_log_p, testbed.tree.lengths
    implied = torch.stack(
        [implied_reward(arm, log_ratio[i], log_p, tokens) for i, arm in enumerate(arms)]
    )
    true = (scale * testbed.reward).expand_as(implied)

    def centred(values: Tensor) -> Tensor:
        return values - (weight * values).sum(-1, keepdim=True)

    implied, true = centred(implied), centred(true)
    both, own, other = (
        (weight * a * b).sum((-2, -1))
        for a, b in ((implied, true), (implied, implied), (true, true))
    )
    whole = (log_q > LOG_ZERO).all(-1).all(-1)  # a reward of minus infinity has no regression
    found = both / other, both / (own * other).sqrt()
    return Fit(*(torch.where(whole, each, math.nan) for each in found))


def population_gradient(
    testbed: Testbed, arms: Sequence[DpoArm], log_q: Tensor, preferences: Preferences
) -> Tensor:
    """Norm of the population loss's gradient at policies over that at the reference, ``(arms,
    seeds)``.

    With respect to a logit for every token after every prefix; ``log_q`` is ``(arms, seeds,
    prompts, leaves)``. NaN for hinge, whose least loss is where it has kinks.
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
    smooth = torch.tensor([arm.loss != "hinge" for arm in arms])[:, None]
    return torch.where(smooth, norms[0] / norms[1], math.nan)
