"""The gradient task of a categorical pair: one token, a softmax of free logits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from klbench import divergences
from klbench.pairs._scores import TableScores, against_softmax
from klbench.types import Atoms, Rollouts


class CategoricalTask:
    """The gradient task of a categorical pair; its parameters are the policy's logits.

    Parameters
    ----------
    log_q, log_p, log_mu
        Log-probabilities of the categories, each ``(k,)``; ``log_q`` finite everywhere.
    """

    def __init__(self, log_q: np.ndarray, log_p: np.ndarray, log_mu: np.ndarray) -> None:
        self.parameters = len(log_q)
        self._log_q, self._log_p, self._log_mu = (
            torch.from_numpy(each) for each in (log_q, log_p, log_mu)
        )
        self.tokens = 1
        self.staleness = float(divergences.terms("kl_qp", log_q, log_mu).sum())

    def theta(self) -> Tensor:
        """The policy's logits, shape ``(k,)``."""
        return self._log_q.clone()

    def gradient(self, target: str) -> Tensor:
        """The gradient of ``kl_qp`` or ``kl_pq``.

        ``q (log q/p - KL(q‖p))`` or ``q - p``, with all digits of each category.
        """
        q, p, log_ratio = self._log_q.exp(), self._log_p.exp(), self._log_q - self._log_p
        if target == "kl_qp":
            return against_softmax(q * log_ratio, q)
        if target == "kl_pq":
            return torch.where(
                log_ratio > 0.0, -q * torch.expm1(-log_ratio), p * torch.expm1(log_ratio)
            )
        raise KeyError(target)

    def tilted(self, power: float) -> None:
        """All can be enumerated: no need of it."""

    def atoms(self) -> Iterator[Atoms]:
        """All categories, once."""
        index = torch.arange(self.parameters)
        rollouts = self.rollouts(self._log_q, index)
        scores = TableScores(
            self._log_q[None],
            self._log_p[None],
            torch.zeros_like(index)[:, None],
            index[:, None],
            rollouts.mask,
            self.parameters,
        )
        yield Atoms(self._log_mu.exp(), rollouts, scores)

    def sample(self, stream: np.random.Generator, n: int) -> Tensor:
        """Draw ``n`` categories from the sampler, shape ``(n,)``."""
        cumulative = self._log_mu.exp().cumsum(0)[:-1]
        return torch.searchsorted(cumulative, torch.from_numpy(stream.random(n)), right=True)

    def rollouts(self, theta: Tensor, samples: Tensor) -> Rollouts:
        """The categories under logits ``theta``, as sequences of one token."""
        log_q = theta.log_softmax(0)
        kl = log_q.exp() @ (log_q - self._log_p)
        return Rollouts(
            log_q[samples][:, None],
            self._log_p[samples][:, None],
            self._log_mu[samples][:, None],
            kl.expand(len(samples), 1),
            torch.ones(len(samples), 1, dtype=torch.bool),
        )
