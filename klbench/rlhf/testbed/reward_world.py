"""Reward models on the testbed, and what becomes of the true reward when theirs is made large,
exactly.

A model's score stands in for the reward: it is the proxy, the testbed's own reward is the gold.
Both are reckoned from the reference's mean of each prompt, since pairs of answers to one prompt say
nothing of its level. (Gao, Schulman and Hilton 2022, "Scaling laws for reward model
overoptimization".)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from klbench.policies import Name
from klbench.policies.shapes import POLICIES
from klbench.rlhf.reward_model import HELD_OUT, Scored
from klbench.rlhf.testbed import Testbed, padded
from klbench.rlhf.testbed.dpo_world import Preferences
from klbench.rlhf.testbed.ppo_world import Adam

ROUNDING = 1.5e-14
"""A gradient this small against the weight of its terms, 64 units in their last place, is 0 but
for rounding.
"""
TIE = 1e-10
"""Scores this near to each other, in units of the largest, are equal but for rounding."""


class RewardModels:
    """Models ``(sizes, seeds)`` that learn from the first so many pairs each, as
    :func:`klbench.rlhf.reward_model.train` wants.

    A model has the shape of a policy. Its score of a sequence is the sum of its outputs for the
    sequence's tokens, less what it was before training: so all begin with a reward of 0, and a
    table is a linear model of prefixes and tokens.

    Parameters
    ----------
    preferences
        Of each seed; every fifth is held out.
    sizes
        How many of them each model has, those that are held out included.
    model, width
        The models' shape.
    rate, steps
        Of :class:`klbench.rlhf.testbed.ppo_world.Adam`; the rate falls to 0 along a line.
    """

    def __init__(
        self,
        testbed: Testbed,
        preferences: Preferences,
        sizes: Sequence[int],
        *,
        model: Name,
        width: int,
        rate: float,
        steps: int,
    ) -> None:
        self.testbed, self.preferences, self.sizes = testbed, preferences, tuple(sizes)
        self._policy = POLICIES[model](testbed.tree, testbed.prompts, width)
        drawn = padded(
            np.stack(
                [
                    self._policy.random(testbed.stream(k, model, "reward model"))
                    for k in testbed.seeds
                ]
            )
        )
        if (
            model == "table"
        ):  # it is linear: where it starts is no part of its score, and would only round it
            drawn = torch.zeros_like(drawn)
        self.theta = drawn.repeat(len(self.sizes), 1, 1).requires_grad_()
        self.optimizer = Adam(self.theta, rate, None, steps)
        self.kept = self.theta.detach().clone()
        with torch.no_grad():
            self._start = self._outputs(drawn[None])
        number = torch.arange(preferences.chosen.shape[-1])
        mine = torch.stack([number < size for size in self.sizes])
        self._weights = [
            self._shares(mine & part) for part in (number % HELD_OUT != 0, number % HELD_OUT == 0)
        ]
        self._floor = ROUNDING * self._touched(self._weights[0])

    @staticmethod
    def _shares(chosen: Tensor) -> Tensor:
        shares = chosen.double() / chosen.sum(-1, keepdim=True)
        return shares[:, None]

    def _touched(self, weight: Tensor) -> Tensor:
        """Return, for each token after each prefix, the weight of all answers that have it.

        A bound on its gradient.
        """
        outputs = torch.zeros(
            len(self.sizes), *self._start.shape[1:], dtype=weight.dtype, requires_grad=True
        )
        both = torch.stack(self._answers(self.testbed.tree.sum_along(outputs)))
        (found,) = torch.autograd.grad((weight * both).sum(), outputs)
        return found

    def _outputs(self, theta: Tensor) -> Tensor:
        """Return the outputs for all tokens after all prefixes.

        ``(..., parameters)`` to ``(..., prompts, nodes, tokens)``.
        """
        prompts = torch.arange(self.testbed.prompts)

        def one(each: Tensor) -> Tensor:
            return self._policy.everywhere(self._policy.split(each), prompts)

        result: Tensor = torch.vmap(one)(
            theta.reshape(-1, theta.shape[-1])[:, : self._policy.parameters]
        )
        # As in the testbed: the order of sums must not depend on the stack.
        return result.contiguous().view(*theta.shape[:-1], *result.shape[1:])

    def scores(self, theta: Tensor) -> Tensor:
        """Scores of all sequences, ``(sizes, seeds, prompts, leaves)``, in the labels' units."""
        return self.testbed.tree.sum_along(self._outputs(theta) - self._start)

    def _scored(self, theta: Tensor, weight: Tensor) -> Scored:
        change = self._outputs(theta) - self._start
        if change.requires_grad:  # Adam makes steps of what rounding leaves of 0
            change.register_hook(self._without_rounding)  # type: ignore[no-untyped-call]
        chosen, rejected = self._answers(self.testbed.tree.sum_along(change))
        return Scored(chosen, rejected, weight)

    def _answers(self, scores: Tensor) -> list[Tensor]:
        """Scores of all sequences to those of the pairs' better and worse answers, ``(sizes,
        seeds, n)`` each.
        """
        flat = scores.flatten(-2)
        return [
            flat.gather(-1, each.expand(len(self.sizes), -1, -1))
            for each in (self.preferences.chosen, self.preferences.rejected)
        ]

    def _without_rounding(self, gradient: Tensor) -> Tensor:
        return gradient.masked_fill(gradient.abs() <= self._floor, 0.0)

    def training(self, step: int) -> Scored:
        """All pairs that are not held out, in every step."""
        return self._scored(self.theta, self._weights[0])

    def held_out(self) -> Scored:
        """The others."""
        return self._scored(self.theta, self._weights[1])

    def step(self, loss: Tensor, step: int) -> None:
        """One step of Adam."""
        self.optimizer.step(loss, step)

    def keep(self, better: Tensor) -> None:
        """Remember parameters."""
        self.kept = torch.where(better[..., None], self.theta.detach(), self.kept)

    def kept_scores(self) -> Tensor:
        """The kept models' scores.

        Those that only rounding can have set apart are equal: see :func:`tied`.
        """
        with torch.no_grad():
            return tied(self.scores(self.kept))


def tied(score: Tensor) -> Tensor:
    """Scores over the last axis, each that is within ``1e-10`` of the largest one's size of the
    next lower one equal to that.

    Two answers that the same pairs speak for have the same score in exact arithmetic; the order of
    sums takes their last bits apart. What is best of n depends on it: of two equal scores neither
    is preferred.
    """
    value, order = score.sort(-1)
    apart = value.diff() > TIE * score.abs().amax(-1, keepdim=True)
    first = torch.nn.functional.pad(apart, (1, 0), value=True)
    lowest = torch.where(first, value, -torch.inf).cummax(-1).values
    return torch.empty_like(score).scatter_(-1, order, lowest)


def gain(testbed: Testbed, reward: Tensor) -> Tensor:
    """Rewards of sequences, ``(..., seeds, prompts, leaves)``, less the reference's mean of each
    prompt.
    """
    return reward - (testbed.leaf_log_p.exp() * reward).sum(-1, keepdim=True)


class Optimised(NamedTuple):
    """Exact values of policies made from a proxy, each ``(n, ..., seeds)``.

    KL(q‖p) in nats, and gains.
    """

    kl: Tensor
    proxy: Tensor
    gold: Tensor


def _values(testbed: Testbed, log_q: Tensor, proxy: Tensor) -> Optimised:
    q = log_q.exp()
    # A sequence that cannot come adds nothing: its log-probability is -inf.
    log_ratio = (log_q - testbed.leaf_log_p).masked_fill(q == 0.0, 0.0)
    gold = gain(testbed, testbed.reward)
    return Optimised(*((q * each).sum(-1).mean(-1) for each in (log_ratio, proxy, gold)))


def tilted(testbed: Testbed, proxy: Tensor, beta: Tensor) -> Optimised:
    """The policies ``ref exp(proxy / beta) / Z`` for proxies ``(..., seeds, prompts, leaves)`` and
    each ``beta``, ``(n,)``.

    They are the optima of ``E proxy - beta KL(pi‖ref)``. (Rafailov et al. 2023, "Direct preference
    optimization", eq. 4.)
    """
    weight = beta.view(-1, *[1] * proxy.ndim)
    return _values(testbed, (testbed.leaf_log_p + proxy / weight).log_softmax(-1), proxy)


def best_of_n(testbed: Testbed, proxy: Tensor, n: Tensor) -> Optimised:
    """The best of ``n`` answers of the reference by the proxy, the first of those that tie, for
    each ``n``: ``(k,)``.

    See :func:`log_best_of_n`. ``log n - (n - 1)/n``, which is usually reported for its KL, is an
    upper bound.
    """
    found = [
        _values(testbed, log_best_of_n(testbed.leaf_log_p, proxy, float(each)), proxy) for each in n
    ]
    return Optimised(*(torch.stack(each) for each in zip(*found, strict=True)))


def log_best_of_n(log_p: Tensor, score: Tensor, n: float) -> Tensor:
    """Log-probability with which each sequence is the best of ``n``.

    ``log[p(x)/p(tie) (F^n - F_^n)]``, over the last axis.

    ``F`` is the probability of a score no larger than that of ``x``, ``F_`` of a smaller one, and
    ``p(tie) = F - F_`` that of an equal one; of answers that tie, the first is taken. (Beirami et
    al. 2024, "Theoretical guarantees on the best-of-n alignment policy", lemma 1, where no two
    scores are equal.)
    """
    score = score.contiguous()
    log_p = log_p.expand_as(score)
    value, order = score.sort(-1)
    upto = torch.nn.functional.pad(log_p.gather(-1, order).exp().cumsum(-1), (1, 0))
    total = upto[..., -1:]  # 1 but for rounding
    high, low = (
        upto.gather(-1, torch.searchsorted(value, score, right=right)) / total
        for right in (True, False)
    )
    # log(F^n - F_^n) - log(F - F_), and p itself where that is F - F_.
    ratio = (low / high).log()
    more = (n - 1) * high.log() + (-torch.expm1(n * ratio)).log() - (-torch.expm1(ratio)).log()
    # A sequence so rare that F and F_ are one number: the derivative, n F^(n - 1).
    return log_p + torch.where(high > low, more, math.log(n) + (n - 1) * high.log())


def with_proxy(testbed: Testbed, proxy: Tensor) -> Testbed:
    """A testbed of the same references with other rewards, ``(sizes, seeds, prompts, leaves)``.

    Size by size, all its seeds.

    A seed draws the same numbers for every size.
    """
    result = replace(testbed, seeds=testbed.seeds * len(proxy))
    result.__dict__["reward"] = proxy.flatten(
        0, 1
    ).contiguous()  # where the testbed keeps its own once it is made
    return result
