"""The distribution that tokens are sampled from: the model's own, sharpened and truncated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """The choice of tokens.

    Temperature first, then top-k, then top-p, each on what the one before left, renormalised.

    Parameters
    ----------
    temperature
        Logits are divided by it.
    top_p
        The fewest tokens, the most probable first, that hold at least so much probability; 1 keeps
        all.
    top_k
        The so many most probable tokens, and those equal to the last of them; 0 keeps all.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    @property
    def plain(self) -> bool:
        """Return whether tokens are drawn from the model's own distribution."""
        return self.temperature == 1.0 and self.top_p == 1.0 and self.top_k == 0

    def log_probs(self, logits: Tensor) -> Tensor:
        """Log-probabilities, float64, ``-inf`` where a token cannot be chosen.

        Shape ``(..., vocabulary)`` as the logits.
        """
        scaled = logits.double()
        if self.temperature != 1.0:
            scaled = scaled / self.temperature
        if 0 < self.top_k < scaled.shape[-1]:
            scaled = scaled.masked_fill(
                scaled < scaled.topk(self.top_k).values[..., -1:], -torch.inf
            )
        if self.top_p < 1.0:
            ordered, place = scaled.log_softmax(-1).exp().sort(dim=-1, descending=True, stable=True)
            enough = (
                ordered.cumsum(-1) - ordered >= self.top_p
            )  # what comes before holds enough already
            scaled = scaled.masked_fill(
                torch.zeros_like(enough).scatter(-1, place, enough), -torch.inf
            )
        return scaled.log_softmax(-1)


def choose(log_probs: Tensor, uniform: Tensor) -> Tensor:
    """The token at quantile ``uniform`` of each row.

    ``(n, vocabulary)`` and ``(n,)`` in [0, 1) to ``(n,)``.

    One number a token, so that a completion depends on its own numbers and on nothing else that is
    sampled with it.
    """
    cumulative = log_probs.exp().cumsum(-1)
    total = cumulative[:, -1:].contiguous()
    found = torch.searchsorted(cumulative, uniform[:, None] * total, right=True)
    last = torch.searchsorted(
        cumulative, total
    )  # the last token of any probability, should rounding reach the total
    return torch.minimum(found, last)[:, 0]
