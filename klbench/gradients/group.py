"""The moments of a group of samples that share a baseline, exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from klbench.gradients.coefficients import Coefficients
from klbench.types import Atoms


@dataclass(frozen=True)
class Group:
    """A group of ``n`` samples of one prompt whose returns have the mean of the others subtracted.

    Its gradient is a U-statistic with the kernel ``h(x, y) = (B(x) + B(y) - C(x, y) - C(y, x)) /
    2``, where ``B`` is the gradient without a baseline and ``C(x, y) = sum over t of R_t(y)
    W_t(x)``, the weighted score times the other's return. (Hoeffding 1948, section 5, for the
    variance.)

    Parameters
    ----------
    weights, returns
        Of each token's score, ``(n, T)``.
    direct
        The factors of the part of the gradient that no baseline touches: of the scores and of
        ``kl``'s gradients, ``(n, 2T)``; None without such a part.
    """

    atoms: Atoms
    gram: Tensor
    weights: Tensor
    returns: Tensor
    direct: Tensor | None = None

    def moments(self, n: int) -> tuple[Tensor, float]:
        """Expected gradient, and ``n`` times the variance of the group's."""
        p, tokens = self.atoms.probability, self.weights.shape[-1]
        scores = self.gram[:, :tokens, :tokens]
        b = self._with_direct(self.weights * self.returns)
        own = self.gram[:, : b.shape[-1], : b.shape[-1]]
        mean_return = p @ self.returns
        both = torch.einsum("n,ns,nt->st", p, self.returns, self.returns)
        products = torch.einsum("n,ns,nt,nst->st", p, self.weights, self.weights, scores)
        b_scores = torch.einsum("n,ns,nt,nst->t", p, b, self.weights, own[:, :, :tokens])
        squared = float(torch.einsum("n,ns,nt,nst->", p, b, b, own))

        d = self._with_direct(self.weights * (self.returns - mean_return))
        one_token = torch.diag_embed(self.weights).movedim(1, 0)  # (T, n, T)
        times = self.returns.T[..., None]
        pulled = self.pull(torch.cat([b[None], d[None], times * b]))
        mean_b, mean_d, return_b = pulled[0], pulled[1], pulled[2:]
        pulled = self.pull(torch.cat([one_token[None], times[:, None] * one_token]))
        mean_w, v = pulled[0], pulled[1:]  # (T, P), (T, T, P)
        gradient = mean_b - mean_return @ mean_w

        crossed = float(torch.einsum("stp,tsp->", v, v))
        kernel = (
            2 * squared
            + 2 * float(mean_b @ mean_b)
            + 2 * float((both * products).sum())
            + 2 * crossed
            - 4 * float(mean_return @ b_scores)
            - 4 * float((return_b * mean_w).sum())
        ) / 4

        mean_n = mean_return @ mean_w
        return_d = return_b - torch.einsum("t,stp->sp", mean_return, v)
        projected = (
            float(torch.einsum("n,ns,nt,nst->", p, d, d, own))
            + float(mean_b @ mean_b)
            + float((both * (mean_w @ mean_w.T)).sum())
            + 2 * float(mean_d @ mean_b)
            - 2 * float((return_d * mean_w).sum())
            - 2 * float(mean_b @ mean_n)
        ) / 4

        square = float(gradient @ gradient)
        variance = 2 / (n * (n - 1)) * (2 * (n - 2) * (projected - square) + kernel - square)
        return gradient, n * variance

    def _with_direct(self, token: Tensor) -> Tensor:
        if self.direct is None:
            return token
        return self.direct + torch.cat([token, torch.zeros_like(token)], dim=-1)

    def pull(self, factors: Tensor) -> Tensor:
        """The expected gradient of scores times these, ``(..., n, T)`` or with ``kl``'s ``(..., n,
        2T)``, to ``(..., parameters)``.
        """
        tokens = self.weights.shape[-1]
        token, full = factors[..., :tokens], factors[..., tokens:]
        of_kl = full if full.numel() else None
        return Coefficients(token, of_kl, torch.zeros_like(self.weights[:, :1])).pull(self.atoms)
