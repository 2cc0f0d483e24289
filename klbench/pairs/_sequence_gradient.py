"""The gradient task of the sequence pair.

All scores, exact gradients, and samples to be scored again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import pad

from klbench.pairs._scores import DenseScores, TableScores
from klbench.types import Atoms, Rollouts

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from klbench.policies.shapes import Policy

CHUNK_BYTES = 16e6
"""The size of the part of the Jacobian that is made at a time."""


class Samples(NamedTuple):
    """A prompt and the sequences sampled after it: all the others are ``(n, T)``."""

    prompt: int
    node: Tensor
    token: Tensor
    mask: Tensor
    log_p: Tensor
    log_mu: Tensor
    log_old: Tensor


class SequenceTask:
    """The gradient task of a sequence pair.

    What it has to say of a prompt is computed when it is asked for.

    Parameters
    ----------
    theta
        The policy's parameters, ``(parameters,)``.
    log_probs
        Log-probabilities of the next token, ``(prompts, nodes, tokens)``, of ``q``, ``p``,
        off-policy ``mu``, and ``old`` where that is not ``mu``.
    staleness
        ``KL(q‖mu)`` in nats.
    temperature
        By which the policy's logits are divided; the reference's are already.
    """

    def __init__(
        self,
        policy: Policy,
        prompts: int,
        theta: np.ndarray,
        log_probs: Mapping[str, np.ndarray],
        staleness: float,
        temperature: float = 1.0,
    ) -> None:
        self._temperature = temperature
        self.tree, self.policy, self.prompts, self.staleness = (
            policy.tree,
            policy,
            prompts,
            staleness,
        )
        self.parameters = policy.parameters
        self.tokens = self.tree.horizon
        self._theta = torch.from_numpy(theta)
        sides = {side: torch.from_numpy(each) for side, each in log_probs.items()}
        self._log_q, self._log_p = sides["q"], sides["p"]
        self._log_mu = sides.get("mu", self._log_q)
        self._log_old = sides.get("old", self._log_mu)
        q = self._log_q.exp()
        self._log_ratio = self._log_q - self._log_p
        self._kl = (q * self._log_ratio).sum(-1)

    def _log_probs(self, logits: Tensor) -> Tensor:
        return (logits / self._temperature).log_softmax(-1)

    def theta(self) -> Tensor:
        """The policy's parameters, shape ``(parameters,)``."""
        return self._theta.clone()

    def gradient(self, target: str) -> Tensor:
        """The gradient of ``kl_qp`` or ``kl_pq`` through the sum over all sequences."""
        theta = self.theta().requires_grad_()
        logits = self.policy.everywhere(self.policy.split(theta), torch.arange(self.prompts))
        log_probs = self._log_probs(logits)
        q, p = self.tree.sum_along(log_probs), self.tree.sum_along(self._log_p)
        total = {
            "kl_qp": lambda: (q.exp() * (q - p)).sum(),
            "kl_pq": lambda: (p.exp() * (p - q)).sum(),
        }[target]()
        (gradient,) = torch.autograd.grad(total / self.prompts, theta)
        return gradient

    def tilted(self, power: float) -> None:
        """All can be enumerated: no need of it."""

    def atoms(self) -> Iterator[Atoms]:
        """All sequences after each prompt in turn."""
        node, token, mask = self.tree.paths
        edge = node * self.tree.tokens + token

        for prompt in range(self.prompts):
            q, p, mu, old = (
                torch.where(mask, log_probs[prompt].flatten()[edge], 0.0)
                for log_probs in (self._log_q, self._log_p, self._log_mu, self._log_old)
            )
            kl = torch.where(mask, self._kl[prompt][node], 0.0)
            yield Atoms(
                self.tree.sum_along(self._log_mu[prompt]).exp(),
                Rollouts(q, p, mu, kl, mask, old),
                self._scores(prompt),
            )

    def _scores(self, prompt: int) -> DenseScores | TableScores:
        node, token, mask = self.tree.paths
        # What is stored for a table are scores in the logits that are compared: no temperature
        # stands between.
        if self.policy.name == "table" and self._temperature == 1.0:
            start = prompt * self.tree.nodes * self.tree.tokens
            return TableScores(
                self._log_q[prompt], self._log_p[prompt], node, token, mask, self.parameters, start
            )
        edges = self.jacobian(prompt)
        # d(h) = sum over a of q(a|h) log q/p(a|h) s_a(h), since the scores at a prefix average to
        # zero.
        weight = (self._log_q[prompt].exp() * self._log_ratio[prompt])[:, None]
        nodes = torch.bmm(weight, edges.view(self.tree.nodes, self.tree.tokens, -1))[:, 0]
        return DenseScores(edges, nodes, node * self.tree.tokens + token, node, mask)

    def jacobian(self, prompt: int) -> Tensor:
        """Gradient of ``log q`` of every token after every prefix.

        Shape ``(nodes * tokens, parameters)``.
        """
        tokens, size, last = self.tree.tokens, self.parameters, self.tree.horizon - 1
        result = torch.empty(self.tree.nodes, tokens, size, dtype=self._theta.dtype)
        at = torch.tensor([prompt])
        depths = range(self.tree.horizon)
        depth = torch.tensor(depths).repeat_interleave(torch.tensor(self.tree.widths))
        # What follows a prefix changes nothing before it: any tokens make all as long as the last.
        paths = torch.cat([pad(self.tree.prefixes(d), (0, last - d)) for d in depths])

        def logits(theta: Tensor, path: Tensor) -> Tensor:
            return self.policy.along(self.policy.split(theta), at, path[None])[0]

        # A copy of the parameters for each prefix: one backward pass is a token's rows of all of
        # them. Not torch.func.jacrev, whose first call imports all that torch compiles with.
        chunk = max(1, int(CHUNK_BYTES / (8 * tokens * size)))
        parts = (torch.split(each, chunk) for each in (result, paths, depth))
        for part, path, end in zip(*parts, strict=True):
            theta = self._theta.repeat(len(path), 1).requires_grad_()
            each = torch.vmap(logits)(theta, path)[torch.arange(len(path)), end]
            log_probs = self._log_probs(each).sum(0)
            for token in range(tokens):
                (part[:, token],) = torch.autograd.grad(
                    log_probs[token], theta, retain_graph=token + 1 < tokens
                )
        return result.view(-1, size)

    def sample(self, stream: np.random.Generator, n: int) -> Samples:
        """A prompt, then ``n`` sequences token by token from the sampler's conditionals."""
        prompt = int(stream.integers(self.prompts))
        log_mu = self._log_mu[prompt]
        cumulative = log_mu.exp().cumsum(-1)[:, :-1]
        uniform = torch.from_numpy(stream.random((n, self.tree.horizon)))
        node, token = torch.zeros(2, n, self.tree.horizon, dtype=torch.int64)
        alive = torch.ones(n, self.tree.horizon, dtype=torch.bool)
        for t in range(self.tree.horizon):
            token[:, t] = (uniform[:, t, None] >= cumulative[node[:, t]]).sum(1)
            if t + 1 < self.tree.horizon:
                alive[:, t + 1] = alive[:, t] & (token[:, t] < self.tree.vocabulary)
                node[:, t + 1] = torch.where(
                    alive[:, t + 1], self.tree.child(node[:, t], token[:, t], t), 0
                )
        token = torch.where(alive, token, 0)
        chosen = (
            torch.where(alive, log_probs[prompt][node, token], 0.0)
            for log_probs in (self._log_p, self._log_mu, self._log_old)
        )
        return Samples(prompt, node, token, alive, *chosen)

    def rollouts(self, theta: Tensor, samples: Samples) -> Rollouts:
        """The samples under parameters ``theta``, by a forward pass along them."""
        prompt, node, token, mask, log_p, log_mu, log_old = samples
        weights = self.policy.split(theta)
        at = torch.full((len(token),), prompt)
        # What comes before a token decides about it; the end token comes before nothing.
        before = torch.where(token < self.tree.vocabulary, token, 0)[:, :-1]
        log_probs = self._log_probs(self.policy.along(weights, at, before))
        log_q = log_probs.gather(-1, token[..., None])[..., 0]
        kl = (log_probs.exp() * (log_probs - self._log_p[prompt][node])).sum(-1)
        return Rollouts(log_q, log_p, log_mu, kl, mask, log_old)
