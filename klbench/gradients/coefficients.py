"""The factors of the vectors that gradients are sums of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from klbench.types import Atoms


@dataclass(frozen=True)
class Coefficients:
    """The factors of each sequence's vectors.

    ``exp(log_scale)`` times ``(n, T)`` of the scores and of ``kl``'s gradients.

    ``log_scale``, shape ``(n, 1)``, is 0 but where a coefficient itself may be beyond a float. It
    is as large as its sequence is rare, and the two meet in log space.
    """

    token: Tensor
    full: Tensor
    log_scale: Tensor

    def pull(self, atoms: Atoms) -> Tensor:
        """The expected gradient, ``(parameters,)``."""
        # A coefficient may be as large as its sequence is rare: half of the weight before the
        # product, half after.
        half = self._half(atoms)
        return atoms.scores.pull(half * (half * self.token), half * (half * self.full))

    def second_moment(self, atoms: Atoms, gram: Tensor) -> float:
        """``E ‖g‖^2``; inf where that is beyond a float."""
        vectors = (log_probability(atoms) / 2.0 + self.log_scale).exp() * torch.cat(
            [self.token, self.full], dim=-1
        )
        if bool(vectors.isinf().any()):
            return math.inf
        return float(torch.einsum("ni,nij,nj->", vectors, gram, vectors))

    def size(self, atoms: Atoms, gram: Tensor) -> float:
        """The expected sum of the lengths of all that the gradient is a sum of."""
        half = self._half(atoms)
        lengths = gram.diagonal(dim1=1, dim2=2).sqrt()
        return float(
            (half * (half * torch.cat([self.token, self.full], dim=-1).abs()) * lengths).sum()
        )

    def _half(self, atoms: Atoms) -> Tensor:
        """The root of each sequence's probability times ``exp(log_scale)``, ``(n, 1)``."""
        return ((log_probability(atoms) + self.log_scale) / 2.0).exp()


def log_probability(atoms: Atoms) -> Tensor:
    """The log-probability of each sequence under the sampler, ``(n, 1)``."""
    return atoms.rollouts.log_mu.sum(-1, keepdim=True)
