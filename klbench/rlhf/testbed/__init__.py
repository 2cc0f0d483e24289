"""Policies whose every sequence is enumerated, a bounded reward, and everything that RLHF
optimises, exactly.

For a prompt ``x``, a reference ``ref`` and a reward ``r``, the objective ``J(pi) = E_pi[r] - beta
KL(pi‖ref)`` is largest for ``pi* = ref exp(r / beta) / Z``, where it is ``J* = beta log Z``; and
``J* - J(pi) = beta KL(pi‖pi*)`` for every ``pi``. (Ziebart 2010; Rafailov et al. 2023, eq. 4.) All
values are means over equally likely prompts.

:mod:`klbench.rlhf.testbed.ppo_world`, :mod:`klbench.rlhf.testbed.dpo_world` and
:mod:`klbench.rlhf.testbed.reward_world` train on it; :mod:`klbench.rlhf.testbed.expected` is PPO
without sampling noise, :mod:`klbench.rlhf.testbed.fixed_points` where that must end, and
:mod:`klbench.rlhf.testbed.implied` where DPO must.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from klbench import streams
from klbench.policies import Name
from klbench.policies.shapes import POLICIES, Policy
from klbench.policies.tree import Tree
from klbench.types import RunError

IDENTITY_TOLERANCE = 1e-9
"""Largest difference between ``J* - J`` and ``beta KL(pi‖pi*)`` that rounding is held to
explain.
"""
ALIGNED = 8
"""Numbers of float64 in 64 bytes."""
REWARD_SPREAD = 0.8
"""Standard deviation, about, of what the reward squashes."""


class Exact(NamedTuple):
    """Exact values of a stack of policies, each of the stack's shape ``(...)``.

    Divergences in nats.
    """

    reward: Tensor
    kl: Tensor
    objective: Tensor
    regret: Tensor
    kl_to_optimum: Tensor


@dataclass(frozen=True)
class Testbed:
    """One reference and one reward for each seed, over the sequences of one tree.

    A seed draws its own reference and its own reward; its number, and not which others there are,
    decides what it draws.

    Parameters
    ----------
    model, vocabulary, horizon, prompts, width
        Of the policies, as in ``pair=sequence``.
    seed
        Of the run.
    seeds
        Numbers of the seeds.
    """

    model: Name
    vocabulary: int
    horizon: int
    prompts: int
    width: int
    seed: int
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, settings: Any, seed: int, seeds: tuple[int, ...]) -> Testbed:
        """Return the testbed of some seeds that a study's settings describe."""
        shape = ("model", "vocabulary", "horizon", "prompts", "width")
        return cls(**{name: getattr(settings, name) for name in shape}, seed=seed, seeds=seeds)

    @cached_property
    def tree(self) -> Tree:
        """The sequences after one prompt."""
        return Tree(self.vocabulary, self.horizon)

    @cached_property
    def policy(self) -> Policy:
        """The shape of reference and policy."""
        return POLICIES[self.model](self.tree, self.prompts, self.width)

    def stream(self, k: int, *names: str | int) -> np.random.Generator:
        """A stream of seed number ``k``."""
        return streams.generator(self.seed, "training", "seed", k, *names)

    @cached_property
    def reference(self) -> Tensor:
        """Parameters of each seed's reference, ``(seeds, parameters)``, padded.

        Training starts there.
        """
        return padded(
            np.stack(
                [self.policy.random(self.stream(k, self.model, "reference")) for k in self.seeds]
            )
        )

    @cached_property
    def log_p(self) -> Tensor:
        """The reference's next-token log-probabilities, ``(seeds, prompts, nodes, tokens)``."""
        with torch.no_grad():
            return self.everywhere(self.reference)

    @cached_property
    def leaf_log_p(self) -> Tensor:
        """The reference's log-probability of every sequence, ``(seeds, prompts, leaves)``."""
        return self.tree.sum_along(self.log_p)

    @cached_property
    def reward(self) -> Tensor:
        """The reward of every sequence, ``(seeds, prompts, leaves)``, in (-1, 1).

        ``tanh`` of a sum over the sequence: a weight for each token, partly the prompt's own, and
        one for each two neighbours. The end token counts as a token, so that length is rewarded
        too.
        """
        return torch.from_numpy(np.stack([self._reward(k) for k in self.seeds]))

    def _reward(self, k: int) -> np.ndarray:
        stream = self.stream(k, "reward")
        tokens = self.tree.tokens
        shared, own = stream.standard_normal(tokens), stream.standard_normal((self.prompts, tokens))
        bigrams = stream.standard_normal((tokens, tokens))
        _, token, mask = (part.numpy() for part in self.tree.paths)
        singles = np.where(mask, (shared + own)[:, token], 0.0)
        pairs = np.where(mask[:, 1:], bigrams[token[:, :-1], token[:, 1:]], 0.0)
        terms = np.concatenate(
            [singles, np.broadcast_to(pairs, (*singles.shape[:-1], pairs.shape[-1]))], axis=-1
        )
        total = np.sort(terms, axis=-1).sum(
            -1
        )  # aaba and abaa have the same terms, and are to have the same bits
        # Two unit weights a token and one a pair: divided by the spread of a full sequence's sum.
        scale = REWARD_SPREAD / np.sqrt(3 * self.horizon - 1)
        result: np.ndarray = np.tanh(scale * total)
        return result

    def everywhere(self, theta: Tensor) -> Tensor:
        """Parameters ``(..., parameters)``, padded, to next-token log-probabilities ``(...,
        prompts, nodes, tokens)``.
        """
        prompts = torch.arange(self.prompts)

        def one(each: Tensor) -> Tensor:
            return self.policy.everywhere(self.policy.split(each), prompts)

        result: Tensor = torch.vmap(one)(
            theta.reshape(-1, theta.shape[-1])[:, : self.policy.parameters]
        )
        # The order of sums depends on how numbers lie in memory, and must not depend on the stack.
        return result.contiguous().log_softmax(-1).view(*theta.shape[:-1], *result.shape[1:])

    def log_optimum(self, beta: Tensor) -> Tensor:
        """``log pi*`` of every sequence, ``(arms, seeds, prompts, leaves)``, for a ``beta`` per
        arm, ``(arms,)``.
        """
        return self._tilted(beta).log_softmax(-1)

    def best(self, beta: Tensor) -> Tensor:
        """``J* = beta E log Z``, ``(arms, seeds)``."""
        return beta[:, None] * self._tilted(beta).logsumexp(-1).mean(-1)

    def _tilted(self, beta: Tensor) -> Tensor:
        return self.leaf_log_p + self.reward / beta[:, None, None, None]

    def exact(self, log_probs: Tensor, beta: Tensor) -> Exact:
        """Exact values of policies given by next-token log-probabilities ``(arms, seeds, prompts,
        nodes, tokens)``.

        Raises
        ------
        klbench.types.RunError
            ``J* - J(pi)`` and ``beta KL(pi‖pi*)``, found apart, differ by more than rounding.
        """
        return self.exact_leaves(self.tree.sum_along(log_probs), beta)

    def exact_leaves(self, log_q: Tensor, beta: Tensor) -> Exact:
        """The same from the log-probabilities of sequences, ``(arms, seeds, prompts, leaves)``."""
        q = log_q.exp()
        reward = (q * self.reward).sum(-1).mean(-1)
        kl = (q * (log_q - self.leaf_log_p)).sum(-1).mean(-1)
        once, arm = torch.unique(beta, return_inverse=True)
        to_optimum = (q * (log_q - self.log_optimum(once)[arm])).sum(-1).mean(-1)
        objective = reward - beta[:, None] * kl
        regret = self.best(once)[arm] - objective
        gap = float((regret - beta[:, None] * to_optimum).detach().abs().max())
        if not gap <= IDENTITY_TOLERANCE * max(1.0, float(regret.detach().abs().max())):
            raise RunError(f"J* - J and beta KL(pi‖pi*) must be the same, and differ by {gap:.3g}")
        return Exact(reward, kl, objective, regret, to_optimum)

    def frontier(self, kl: Tensor) -> Tensor:
        """The largest expected reward of any policy at a divergence from the reference.

        ``(n, seeds)`` to the same.

        It is that of ``ref exp(r / beta) / Z`` at the ``beta`` whose divergence this is, found by
        bisection in ``log beta``.
        """

        def tilted(log_beta: Tensor) -> Tensor:
            rewards = self.reward * (-log_beta).exp()[..., None, None]
            return (self.leaf_log_p + rewards).log_softmax(-1)

        def beyond(log_beta: Tensor) -> Tensor:
            log_q = tilted(log_beta)
            return (log_q.exp() * (log_q - self.leaf_log_p)).sum(-1).mean(-1) > kl

        low, high = torch.full_like(kl, -8.0), torch.full_like(kl, 8.0)
        best = tilted(bisected(beyond, low, high, 32)).exp()
        return (best * self.reward).sum(-1).mean(-1)


def bisected(
    holds: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, steps: int = 60
) -> Tensor:
    """Return where a condition stops to hold between ``low``, where it does, and ``high``.

    By bisection, element by element.
    """
    for _ in range(steps):
        middle = (low + high) / 2.0
        there = holds(middle)
        low, high = torch.where(there, middle, low), torch.where(there, high, middle)
    return (low + high) / 2.0


def padded(vectors: np.ndarray) -> Tensor:
    """Vectors ``(..., n)`` with zeros up to a multiple of 64 bytes.

    Matrix products may round by where in memory their factors begin. So padded, the vectors of a
    stack all begin alike, and what becomes of one does not depend on its place in the stack.
    """
    result = torch.zeros(
        *vectors.shape[:-1], -(-vectors.shape[-1] // ALIGNED) * ALIGNED, dtype=torch.float64
    )
    result[..., : vectors.shape[-1]] = torch.from_numpy(vectors)
    return result


def reach(tree: Tree, log_probs: Tensor) -> Tensor:
    """Log-probability of coming to each inner prefix.

    ``(..., nodes, tokens)`` to ``(..., nodes)``.
    """
    levels = [torch.zeros_like(log_probs[..., :1, 0])]
    for depth in range(tree.horizon - 1):
        levels.append((levels[-1][..., None] + log_probs[..., tree.level(depth), :-1]).flatten(-2))
    return torch.cat(levels, dim=-1)


def by_level(tree: Tree, leaves: Tensor) -> Sequence[tuple[Tensor, Tensor | None]]:
    """Values of leaves ``(..., leaves)`` by depth.

    Of those that end there, and of those that the last tokens reach.

    For each depth the values after the end token, ``(..., width)``; for the last one also those
    after every token, ``(..., width, tokens)``.
    """
    last = leaves[..., tree.nodes - tree.widths[-1] :].reshape(
        *leaves.shape[:-1], tree.widths[-1], tree.tokens
    )
    levels: list[tuple[Tensor, Tensor | None]] = [
        (leaves[..., tree.level(depth)], None) for depth in range(tree.horizon - 1)
    ]
    return [*levels, (last[..., -1], last)]
