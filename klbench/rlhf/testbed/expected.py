"""The same training without sampling noise.

On the exact expected gradient of each combination, by enumeration.

On-policy, one step a batch, no clip: there the reward's expected gradient is that of ``E_pi[r]``,
whatever the baseline, and the penalty's is what :mod:`klbench.gradients` says of the combination.
It is found here from the whole tree at once, prefix by prefix where the combination allows, so that
it costs little more than the network itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from klbench.gradients import EXACT, Combination
from klbench.gradients.surrogate import parts
from klbench.rlhf.penalty import PenaltyArm, blocks
from klbench.rlhf.testbed import Testbed, padded, reach
from klbench.rlhf.testbed.ppo_world import Adam
from klbench.types import Rollouts

SAME = 1e-9
"""Relative distance below which two expected gradients are the same but for rounding."""
REST = 1e-6
"""A free policy is at rest where its gradient is this small against that at the reference."""
FREE_STEP, FREE_SMALLEST, FREE_LARGEST = 0.3, 1e-9, 1.0
"""The first, the smallest and the largest change of a free logit in one step, in nats."""


def expected_loss(
    testbed: Testbed,
    arms: Sequence[PenaltyArm],
    log_q: Tensor,
    beta: Tensor,
    group: int,
    pretraining_weight: float = 0.0,
) -> Tensor:
    """A number a replica, ``(arms, seeds)``, whose gradient is the expected gradient of the loss
    ``-r + beta * penalty``.

    ``log_q`` are next-token log-probabilities ``(arms, seeds, prompts, nodes, tokens)``,
    differentiable; ``beta`` is ``(arms,)``. With a ``pretraining_weight``, less so many times the
    mean log-probability of the reference's sequences.
    """
    tree = testbed.tree
    leaves = tree.sum_along(log_q)
    rows, found = [], list(blocks(arms))
    sizes = [where.stop - where.start for where, _ in found]
    # Split, not sliced: the gradient of a slice is as long as the whole.
    each = zip(found, torch.split(log_q, sizes), torch.split(leaves, sizes), strict=True)
    for (where, combination), log_probs, log_whole in each:
        direct, taken = _penalty(testbed, combination, log_probs, log_whole, group)
        weight = beta[where, None, None]
        # grad sum pi(x) c(x) is the score's expectation with c for a coefficient.
        gain = (testbed.reward - weight[..., None] * taken).detach()
        rows.append((weight * direct - (log_whole.exp() * gain).sum(-1)).mean(-1))
    loss = torch.cat(rows)
    if pretraining_weight:
        loss = loss - pretraining_weight * (testbed.leaf_log_p.exp() * leaves).sum(-1).mean(-1)
    return loss


def _penalty(
    testbed: Testbed, combination: Combination | None, log_q: Tensor, leaves: Tensor, group: int
) -> tuple[Tensor, Tensor]:
    """Return the penalty in the loss, ``(..., prompts)``, and the penalty on the return, ``(...,
    prompts, leaves)``.
    """
    if combination is None:
        return torch.zeros_like(leaves[..., 0]), torch.zeros_like(leaves)
    shrink = 1.0 - 1.0 / group if combination.baseline == "batch_mean" else 1.0
    plain = replace(
        combination, name="", baseline="none"
    )  # in expectation a baseline does nothing else
    # A differentiated weight of all the tokens before, and a division by the length, reach beyond
    # the token's own prefix.
    far = plain.level == "token" and (
        plain.length_mean or (plain.ratio_gradient and any(each.reaches for each in plain.factors))
    )
    direct, taken = (_by_sequence if far else _by_leaf if plain.level == "sequence" else _by_token)(
        testbed, plain, log_q, leaves
    )
    return direct, shrink * taken


def _enumerated(log_q: Tensor, log_p: Tensor, kl: Tensor, mask: Tensor) -> Rollouts:
    """Return the rollouts of the policy's own samples."""
    return Rollouts(log_q, log_p.expand_as(log_q), log_q.detach(), kl, mask)


def _by_token(
    testbed: Testbed, combination: Combination, log_q: Tensor, leaves: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the penalty of :func:`_penalty` with every token after every prefix as a sequence of
    one token.

    Each is weighted by its probability.
    """
    log_p, kl = testbed.log_p.expand_as(log_q), torch.zeros_like(log_q)
    if combination.estimator == EXACT:
        kl = (log_q.exp() * (log_q - log_p)).sum(-1, keepdim=True).expand_as(log_q)
    ones = torch.ones_like(log_q, dtype=torch.bool)
    pieces = parts(
        combination, _enumerated(*(each.reshape(-1, 1) for each in (log_q, log_p, kl, ones)))
    )
    direct = torch.zeros_like(leaves[..., 0])
    if combination.placement not in ("reward", "reward_to_go"):
        often = (reach(testbed.tree, log_q.detach())[..., None] + log_q.detach()).exp()
        direct = (often * pieces.direct.view(log_q.shape)).sum((-2, -1))
    if pieces.returns is None:
        return direct, torch.zeros_like(leaves)
    # The score's own and earlier terms do not count in expectation: all of a sequence's terms may
    # stand in its return.
    terms = kl if combination.estimator == EXACT else pieces.returns.view(log_q.shape)
    return direct, testbed.tree.sum_along(terms.detach())


def _by_leaf(
    testbed: Testbed, combination: Combination, log_q: Tensor, leaves: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the penalty of :func:`_penalty` with every sequence as one token."""
    log_q, log_p = (each.reshape(-1, 1) for each in (leaves, testbed.leaf_log_p.expand_as(leaves)))
    ones = torch.ones_like(log_q, dtype=torch.bool)
    pieces = parts(combination, _enumerated(log_q, log_p, torch.zeros_like(log_q), ones))
    direct = (leaves.exp().detach() * pieces.direct.view(leaves.shape)).sum(-1)
    return direct, torch.zeros_like(leaves) if pieces.returns is None else pieces.returns.view(
        leaves.shape
    )


def _by_sequence(
    testbed: Testbed, combination: Combination, log_q: Tensor, leaves: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the penalty of :func:`_penalty` from every sequence with all its tokens.

    It is slow, and right for everything that stands in the loss.
    """
    node, token, mask = testbed.tree.paths
    kl = (log_q.exp() * (log_q - testbed.log_p)).sum(-1)
    along = [
        torch.where(mask, each[..., node, token], 0.0)
        for each in (log_q, testbed.log_p.expand_as(log_q))
    ]
    along.append(torch.where(mask, kl[..., node], 0.0))
    along.append(mask.expand_as(along[0]))
    pieces = parts(combination, _enumerated(*(each.reshape(-1, each.shape[-1]) for each in along)))
    return (leaves.exp().detach() * pieces.direct.view(leaves.shape)).sum(-1), torch.zeros_like(
        leaves
    )


def gradients(
    testbed: Testbed,
    arms: Sequence[PenaltyArm],
    theta: Tensor,
    beta: Tensor,
    group: int,
    *,
    free: bool = False,
    pretraining_weight: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Loss and expected gradient of each replica at parameters ``(arms, seeds, parameters)``.

    Free: they are all logits.
    """
    theta = theta.detach().requires_grad_()
    loss = expected_loss(
        testbed, arms, log_probs(testbed, theta, free=free), beta, group, pretraining_weight
    )
    (gradient,) = torch.autograd.grad(loss.sum(), theta)
    return loss.detach(), gradient


def log_probs(testbed: Testbed, theta: Tensor, *, free: bool = False) -> Tensor:
    """Next-token log-probabilities under parameters, or under logits in their order."""
    return (
        theta.view(*theta.shape[:-1], *testbed.log_p.shape[1:]).log_softmax(-1)
        if free
        else testbed.everywhere(theta)
    )


def alike(testbed: Testbed, arms: Sequence[PenaltyArm], group: int) -> list[int]:
    """Return, for each arm, the first arm of the same ``beta`` and expected gradient, at
    policies drawn at random.
    """
    one = replace(testbed, seeds=testbed.seeds[:1])
    drawn = padded(one.policy.random(one.stream(one.seeds[0], "probe"))[None])
    theta = (one.reference + 0.5 * drawn).expand(len(arms), -1, -1)
    _, found = gradients(
        one, arms, theta, torch.tensor([each.beta for each in arms], dtype=theta.dtype), group
    )
    scale = float(found.norm(dim=-1).max())
    return [
        next(
            j
            for j in range(i + 1)
            if arms[j].beta == arms[i].beta and float((found[i] - found[j]).norm()) <= SAME * scale
        )
        for i in range(len(arms))
    ]


def train(
    testbed: Testbed,
    arms: Sequence[PenaltyArm],
    *,
    steps: int,
    rate: float,
    clip: float | None,
    decay: bool,
    group: int,
    every: int,
    pretraining_weight: float = 0.0,
    start: Tensor | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Follow exact expected gradients with Adam, and yield log-probabilities before every ``every``
    steps and at the end.

    From parameters ``start``, ``(arms, seeds, parameters)``; None: the reference's.
    """
    theta = testbed.reference.repeat(len(arms), 1, 1) if start is None else start.clone()
    beta = torch.tensor([each.beta for each in arms], dtype=theta.dtype)
    optimizer = Adam(theta, rate, clip, steps if decay else None)
    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            with torch.no_grad():
                now = log_probs(testbed, theta)
            yield step, now  # outside: the mode is the caller's too
        if step < steps:
            found = gradients(
                testbed, arms, theta, beta, group, pretraining_weight=pretraining_weight
            )
            optimizer.descend(*found, step)


class Settled(NamedTuple):
    """The end of a descent of free policies.

    log-probabilities, and the steps of each replica, ``(arms, seeds)``.

    ``residual`` is the norm of its gradient there over that at the reference; not at most
    :data:`REST`, it is not at rest.
    """

    log_probs: Tensor
    steps: Tensor
    residual: Tensor


def settle(
    testbed: Testbed,
    arms: Sequence[PenaltyArm],
    *,
    least: int,
    most: int,
    group: int,
    pretraining_weight: float = 0.0,
) -> Settled:
    """Let free policies, a logit of their own for each token after each prefix, come to rest.

    Each for itself.

    From the testbed's reference, by the sign alone of each logit's exact expected gradient, with a
    step that grows while the sign stays (Riedmiller and Braun 1993, "A direct adaptive method for
    faster backpropagation learning: the RPROP algorithm"). A token that has become improbable has a
    gradient as small as its probability: by its size, it would never come back. So a small gradient
    alone is no rest: ``least`` steps are taken whatever it is, and at the ``most`` so many.
    """
    found = [_settled(testbed, each, least, most, group, pretraining_weight) for each in arms]
    return Settled(*(torch.cat(each) for each in zip(*found, strict=True)))


def _settled(
    testbed: Testbed, arm: PenaltyArm, least: int, most: int, group: int, pretraining_weight: float
) -> Settled:
    theta, ended = testbed.log_p.flatten(1)[None], {}
    beta = torch.tensor([arm.beta], dtype=theta.dtype)
    size, before = torch.full_like(theta, FREE_STEP), torch.zeros_like(theta)
    left, start = testbed, None
    for step in range(most + 1):
        _, gradient = gradients(
            left, [arm], theta, beta, group, free=True, pretraining_weight=pretraining_weight
        )
        start = gradient.norm(dim=-1) if start is None else start
        residual = gradient.norm(dim=-1) / start
        # One that overflows stays where it is, and stops no other.
        going = (residual.isfinite() & ((residual > REST) | (step < least)) & (step < most))[0]
        if not bool(going.all()):
            for i in (~going).nonzero()[:, 0].tolist():
                ended[left.seeds[i]] = theta[:, i], torch.tensor([step]), residual[:, i]
            if not bool(going.any()):
                break
            left = replace(left, seeds=tuple(k for k in left.seeds if k not in ended))
            theta, gradient, start, size, before = (
                each[:, going] for each in (theta, gradient, start, size, before)
            )
        agreed = gradient * before
        size = torch.where(agreed < 0.0, size * 0.5, torch.where(agreed > 0.0, size * 1.2, size))
        size = size.clamp(FREE_SMALLEST, FREE_LARGEST)
        before = gradient.masked_fill(agreed < 0.0, 0.0)
        theta = theta - before.sign() * size
    theta, steps, residual = (
        torch.stack(each, dim=1) for each in zip(*(ended[k] for k in testbed.seeds), strict=True)
    )
    return Settled(log_probs(testbed, theta, free=True), steps, residual)
