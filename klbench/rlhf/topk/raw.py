"""The sum over the support as it is."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def terms(log_a: Tensor, log_b: Tensor) -> Tensor:
    """``a (log a - log b)``: 0 where a is 0, infinite where b alone is.

    Gradients pass through what is finite.
    """
    without, gone = log_a.isneginf(), log_b.isneginf()
    gap = log_a.masked_fill(without | gone, 0.0) - log_b.masked_fill(without | gone, 0.0)
    return torch.where(gone & ~without, math.inf, log_a.exp() * gap)


def divergence(log_a: Tensor, log_b: Tensor, kept: Tensor) -> Tensor:
    """``sum over the support of a log a/b``: no KL, and below 0 where b has more there than a."""
    return torch.where(kept, terms(log_a, log_b), 0.0).sum(-1)
