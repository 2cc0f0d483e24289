"""The sum over the support, and one bucket of all other tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from klbench.rlhf.topk import raw


def _tail(log_probs: Tensor, kept: Tensor) -> Tensor:
    """Log-probability of all tokens outside a support.

    Summed, since 1 less the rest leaves rounding of a small one.
    """
    mass = log_probs.exp().masked_fill(kept, 0.0).sum(-1)
    return torch.where(mass > 0.0, mass, 1.0).log().masked_fill(mass <= 0.0, -math.inf)


def divergence(log_a: Tensor, log_b: Tensor, kept: Tensor) -> Tensor:
    """KL of coarser distributions: at most KL(a‖b), and a KL."""
    tails = _tail(log_a, kept), _tail(log_b, kept)
    return raw.divergence(log_a, log_b, kept) + raw.terms(*tails)
