"""The sum over the support, 0 where it is negative."""

from __future__ import annotations

from torch import Tensor

from klbench.rlhf.topk import raw


def divergence(log_a: Tensor, log_b: Tensor, kept: Tensor) -> Tensor:
    """``max(0, sum over the support of a log a/b)``, at each state."""
    return raw.divergence(log_a, log_b, kept).clamp(min=0.0)
