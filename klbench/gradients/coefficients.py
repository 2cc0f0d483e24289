"""The factors of the vectors that gradients are sums of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from klbench.types import Atoms


@dataclass(frozen=True)
class Coefficients:
    """The factors of each sequence's vectors.

    ``exp(log_scale)`` times ``(n, T)`` of the scores and, where any of these count, of ``kl``'s
    gradients.

    ``log_scale``, shape ``(n, 1)``, is 0 but where a coefficient itself may be beyond a float. It
    is as large as its sequence is rare, and the two meet in log space.

    All may have leading axes, as of several combinations, which the results then have too.
    """

    token: Tensor
    full: Tensor | None
    log_scale: Tensor

    @classmethod
    def stacked(cls, several: Iterable[Coefficients]) -> Self:
        """Return several together, on a new first axis; all or none have ``full``."""
        some = list(several)
        full = [each.full for each in some if each.full is not None]
        return cls(
            torch.stack([each.token for each in some]),
            torch.stack(full) if full else None,
            torch.stack([each.log_scale for each in some]),
        )

    @property
    def vectors(self) -> Tensor:
        """The factors of all vectors, ``(n, T)`` or, with those of ``kl``, ``(n, 2T)``."""
        return self.token if self.full is None else torch.cat([self.token, self.full], dim=-1)

    def pull(self, atoms: Atoms) -> Tensor:
        """The expected gradient, ``(parameters,)``."""
        # A coefficient may be as large as its sequence is rare: half of the weight before the
        # product, half after.
        half = self._half(atoms)
        full = None if self.full is None else half * (half * self.full)
        return atoms.scores.pull(half * (half * self.token), full)

    def second_moment(self, atoms: Atoms, gram: Tensor) -> Tensor:
        """``E ‖g‖^2``, a number; inf where that is beyond a float."""
        vectors = (log_probability(atoms) / 2.0 + self.log_scale).exp() * self.vectors
        size = vectors.shape[-1]
        beyond = vectors.isinf().any(-1).any(-1)
        found = torch.einsum("...ni,nij,...nj->...", vectors, gram[:, :size, :size], vectors)
        return torch.where(beyond, torch.inf, found)

    def size(self, atoms: Atoms, gram: Tensor) -> Tensor:
        """The expected sum of the lengths of all that the gradient is a sum of, a number."""
        half, vectors = self._half(atoms), self.vectors
        lengths = gram.diagonal(dim1=1, dim2=2)[:, : vectors.shape[-1]].sqrt()
        return (half * (half * vectors.abs()) * lengths).sum((-2, -1))

    def _half(self, atoms: Atoms) -> Tensor:
        """The root of each sequence's probability times ``exp(log_scale)``, ``(n, 1)``."""
        return ((log_probability(atoms) + self.log_scale) / 2.0).exp()


def log_probability(atoms: Atoms) -> Tensor:
    """The log-probability of each sequence under the sampler, ``(n, 1)``."""
    return atoms.rollouts.log_mu.sum(-1, keepdim=True)
