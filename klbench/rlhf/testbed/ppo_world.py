"""Stacked policies on the testbed.

Sampled with common random numbers, stepped by an Adam of their own, each on its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from klbench import streams
from klbench.rlhf.options import TestbedOptions
from klbench.rlhf.penalty import PenaltyArm
from klbench.rlhf.ppo import PpoBatch, Recipe
from klbench.rlhf.testbed import Testbed, padded
from klbench.types import Rollouts


class Adam:
    """torch's Adam on a stack of vectors, each with its own clip.

    One whose numbers fail is stopped, alone.

    Adam is elementwise, so that each vector goes as it would by itself. (Kingma and Ba 2015,
    algorithm 1; the clip is that of the gradient's norm, Pascanu et al. 2013.)

    Parameters
    ----------
    theta
        Parameters, ``(..., parameters)``, a leaf that is differentiated; changed in place.
    rate, clip
        Learning rate, and the largest norm of a gradient (None: any).
    steps
        The rate falls to 0 along a line over so many steps; None: it stays.
    """

    def __init__(self, theta: Tensor, rate: float, clip: float | None, steps: int | None) -> None:
        self.theta, self.rate, self.clip, self.last = theta, rate, clip, steps
        self._adam = torch.optim.Adam([theta], lr=rate)
        self._steps = 0
        self.alive = torch.ones(theta.shape[:-1], dtype=torch.bool)
        self.norm = torch.zeros(theta.shape[:-1], dtype=theta.dtype)
        """The norm of each vector's last gradient, before the clip."""
        self.causes: dict[tuple[int, ...], tuple[int, str]] = {}
        """The update at which each stopped vector was stopped, and why."""

    def step(self, loss: Tensor, update: int) -> None:
        """One step down each vector's own loss, of the stack's shape."""
        (gradient,) = torch.autograd.grad(loss.sum(), self.theta)
        with torch.no_grad():
            self.descend(loss, gradient, update)

    def descend(self, loss: Tensor, gradient: Tensor, update: int) -> None:
        """The same for gradients that are known."""
        norm = self.norm = gradient.norm(dim=-1)
        self._stop(~loss.isfinite(), "the loss", loss, update)
        self._stop(~norm.isfinite(), "the gradient's norm", norm, update)
        if self.clip is not None:
            gradient = gradient * (self.clip / norm.clamp(min=self.clip))[..., None]
        stopped = self.theta[~self.alive].detach()  # a copy
        left = 1.0 if self.last is None else 1.0 - self._steps / self.last
        self._adam.param_groups[0]["lr"] = self.rate * left
        self.theta.grad = gradient
        self._adam.step()
        self.theta.detach()[~self.alive] = stopped
        self._steps += 1

    def _stop(self, failed: Tensor, what: str, value: Tensor, update: int) -> None:
        for place in (failed & self.alive).nonzero().tolist():
            self.causes[tuple(place)] = (update, f"{what} is {float(value[tuple(place)]):g}")
        self.alive &= ~failed


class Inputs(NamedTuple):
    """Sampled sequences, ``(arms, seeds, n, T)`` each.

    Prefixes, tokens, and log-probabilities of reference and sampler.
    """

    node: Tensor
    token: Tensor
    log_p: Tensor
    log_mu: Tensor


class Replicas:
    """Policies ``(arms, seeds)`` on a testbed, as :func:`klbench.rlhf.ppo.train` wants them.

    All arms of a seed start from its reference and draw with the same uniforms: what differs
    between them is their own doing.

    Parameters
    ----------
    group
        Sequences of each prompt in a batch; a batch has all prompts.
    rate, clip, steps
        Of :class:`Adam`.
    critic
        Whether each replica has values: of a second network of the policy's shape, the first output
        at each prefix.
    exact
        The arms whose rollouts have the exact KL of each token, all unless told; that of the others
        is NaN.
    """

    def __init__(
        self,
        testbed: Testbed,
        arms: int,
        *,
        group: int,
        rate: float,
        clip: float | None,
        steps: int | None,
        critic: bool,
        lag: int,
        exact: list[int] | None = None,
    ) -> None:
        self.testbed, self.group, self.arms = testbed, group, arms
        start = testbed.reference
        self._split = start.shape[-1]
        if critic:
            start = torch.cat([start, padded(self._critics())], dim=-1)
        self.theta = start.repeat(arms, 1, 1).requires_grad_()
        self.optimizer = Adam(self.theta, rate, clip, steps)
        self._exact: slice | list[int] = slice(None) if exact is None else exact
        self._history: deque[Tensor] = deque(maxlen=lag + 1)
        self._prompts = torch.arange(testbed.prompts).repeat_interleave(group)

    @classmethod
    def of(
        cls,
        options: TestbedOptions,
        testbed: Testbed,
        arms: Sequence[PenaltyArm],
        recipe: Recipe,
    ) -> Self:
        """Return the replicas that settings name."""
        return cls(
            testbed,
            len(arms),
            group=options.group,
            rate=options.learning_rate,
            clip=options.gradient_clip,
            steps=recipe.steps if options.decay else None,
            critic=options.critic,
            lag=recipe.lag,
            exact=[i for i, each in enumerate(arms) if each.exact],
        )

    def _critics(self) -> np.ndarray:
        policy = self.testbed.policy
        return 0.5 * np.stack(
            [policy.random(self.testbed.stream(k, "critic")) for k in self.testbed.seeds]
        )

    @property
    def policies(self) -> Tensor:
        """The policies' parameters, ``(arms, seeds, parameters)``, padded."""
        return self.theta.detach()[..., : self._split]

    def _along(self, theta: Tensor, prompts: Tensor, tokens: Tensor) -> Tensor:
        """Return the networks' outputs along tokens ``(arms, seeds, n, t)``.

        ``(arms, seeds, n, t + 1, tokens)``.
        """
        policy = self.testbed.policy

        def one(each: Tensor, token: Tensor) -> Tensor:
            return policy.along(policy.split(each), prompts, token)

        result: Tensor = torch.vmap(one)(
            theta.flatten(0, 1)[:, : policy.parameters], tokens.flatten(0, 1)
        )
        # As in the testbed: the order of sums must not depend on the stack.
        return result.contiguous().view(*theta.shape[:2], *result.shape[1:])

    def sample(self, update: int, lag: int) -> PpoBatch:
        """``group`` sequences of each prompt, token by token, from the policies of ``lag``
        updates ago (the first, before).
        """
        self._history.append(self.policies.clone())
        assert lag + 1 == self._history.maxlen
        return self._written(self._history[0], update)

    def _written(self, theta: Tensor, update: int) -> PpoBatch:
        """``group`` sequences of each prompt from policies of these parameters."""
        tree, n = self.testbed.tree, len(self._prompts)
        draws = [
            self.testbed.stream(k, "samples", update).random((n, tree.horizon))
            for k in self.testbed.seeds
        ]
        uniform = torch.from_numpy(np.stack(draws)).expand(self.arms, -1, -1, -1)
        with torch.no_grad():
            token, log_mu = torch.vmap(self._drawn)(theta.flatten(0, 1), uniform.flatten(0, 1))
        token, log_mu = token.view(uniform.shape), log_mu.view(uniform.shape)
        alive, node = torch.ones_like(token, dtype=torch.bool), torch.zeros_like(token)
        for t in range(tree.horizon - 1):
            going = alive[..., t] & (token[..., t] < tree.vocabulary)
            alive[..., t + 1] = going
            node[..., t + 1] = tree.child(node[..., t], token[..., t], t).where(going, 0)
        return self._batch(
            node, torch.where(alive, token, 0), alive, torch.where(alive, log_mu, 0.0)
        )

    def _drawn(self, theta: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens that one policy draws with uniforms ``(n, T)``, and their log-probabilities."""
        policy = self.testbed.policy
        steps = policy.steps(policy.split(theta[: policy.parameters]), self._prompts)
        logits, tokens, log_mu = next(steps), [], []
        for each in uniform.unbind(-1):
            # As in the testbed: the order of sums must not depend on the stack.
            log_probs = logits.contiguous().log_softmax(-1)
            tokens.append((each[:, None] >= log_probs.exp().cumsum(-1)[:, :-1]).sum(-1))
            log_mu.append(log_probs.gather(-1, tokens[-1][:, None])[:, 0])
            if len(tokens) < uniform.shape[-1]:
                logits = steps.send(self._ordinary(tokens[-1]))
        return torch.stack(tokens, dim=-1), torch.stack(log_mu, dim=-1)

    def _ordinary(self, tokens: Tensor) -> Tensor:
        """Tokens that may come before others.

        After the end token nothing counts, and any will do.
        """
        return tokens.clamp(max=self.testbed.vocabulary - 1)

    def _batch(self, node: Tensor, token: Tensor, alive: Tensor, log_mu: Tensor) -> PpoBatch:
        tree = self.testbed.tree
        seed = torch.arange(len(self.testbed.seeds))[:, None, None]
        log_p = self.testbed.log_p[seed, self._prompts[:, None], node, token].where(alive, 0.0)
        last = alive.sum(-1, keepdim=True) - 1
        end, action = node.gather(-1, last)[..., 0], token.gather(-1, last)[..., 0]
        first = tree.starts[-1]
        # Leaves are numbered by the prefix that they end after, up to the last depth, where each
        # token makes one.
        leaf = torch.where(end < first, end, first + (end - first) * tree.tokens + action)
        reward = self.testbed.reward[seed[..., 0], self._prompts, leaf]
        return PpoBatch(reward, alive, Inputs(node, token, log_p, log_mu))

    def _reference(self, prompts: Tensor, node: Tensor) -> Tensor:
        """The reference's next-token log-probabilities at prefixes ``(arms, seeds, n, T)`` of
        prompts ``(n,)``.
        """
        seed = torch.arange(len(self.testbed.seeds))[:, None, None]
        return self.testbed.log_p[seed, prompts[:, None], node]

    def _inputs(self, batch: PpoBatch) -> tuple[Inputs, Tensor]:
        """The batch's sequences and their prompts."""
        inputs = batch.inputs
        assert isinstance(inputs, Inputs)
        if batch.rows is None:
            return inputs, self._prompts
        return Inputs(*(each[..., batch.rows, :] for each in inputs)), self._prompts[batch.rows]

    def rollouts(self, batch: PpoBatch) -> Rollouts:
        """The batch under the policies of now."""
        (node, token, log_p, log_mu), prompts = self._inputs(batch)
        log_probs = self._along(
            self.theta[..., : self._split], prompts, self._ordinary(token[..., :-1])
        ).log_softmax(-1)
        log_q = log_probs.gather(-1, token[..., None])[..., 0]
        asked = log_probs[self._exact]
        kl = torch.full_like(log_q, torch.nan)  # lest it be used unseen
        kl[self._exact] = (asked.exp() * (asked - self._reference(prompts, node[self._exact]))).sum(
            -1
        )
        return Rollouts(
            torch.where(batch.mask, log_q, 0.0),
            log_p,
            log_mu,
            torch.where(batch.mask, kl, 0.0),
            batch.mask,
        )

    def values(self, batch: PpoBatch) -> Tensor:
        """The critics' values."""
        (_, token, _, _), prompts = self._inputs(batch)
        return (
            self._along(self.theta[..., self._split :], prompts, self._ordinary(token[..., :-1]))[
                ..., 0
            ]
            * batch.mask
        )

    def pretraining(self, update: int, *, exact: bool) -> Tensor:
        """``E[log q(x)]`` over sequences of the reference, ``(arms, seeds)``.

        Of all of them, or of ``group`` for each prompt.

        The sampled ones are the same for all arms.
        """
        testbed = self.testbed
        theta = self.theta[..., : self._split]
        if exact:
            return (
                (testbed.leaf_log_p.exp() * testbed.tree.sum_along(testbed.everywhere(theta)))
                .sum(-1)
                .mean(-1)
            )
        n = len(self._prompts)
        draws = np.stack(
            [testbed.stream(k, "pretraining", update).random(n) for k in testbed.seeds]
        )
        below = testbed.leaf_log_p.exp().cumsum(-1)[:, self._prompts, :-1]
        leaf = (torch.from_numpy(draws)[..., None] >= below).sum(-1).expand(self.arms, -1, -1)
        _, token, mask = (part[leaf] for part in testbed.tree.paths)
        log_probs = self._along(theta, self._prompts, self._ordinary(token[..., :-1])).log_softmax(
            -1
        )
        return (
            torch.where(mask, log_probs.gather(-1, token[..., None])[..., 0], 0.0).sum(-1).mean(-1)
        )

    def order(self, update: int, epoch: int, n: int) -> Tensor:
        """The same for all replicas."""
        return torch.from_numpy(
            streams.generator(self.testbed.seed, "training", "order", update, epoch).permutation(n)
        )

    def step(self, loss: Tensor, update: int) -> None:
        """One step of Adam."""
        self.optimizer.step(loss, update)
