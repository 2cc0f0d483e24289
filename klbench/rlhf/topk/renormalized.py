"""KL of both made to sum to 1 over the support."""

from __future__ import annotations

import math

from torch import Tensor

from klbench.rlhf.topk.raw import terms


def divergence(log_a: Tensor, log_b: Tensor, kept: Tensor) -> Tensor:
    """``KL(a/a(K) ‖ b/b(K))`` over the support K; it knows nothing of the mass there."""
    inside = (each.masked_fill(~kept, -math.inf).log_softmax(-1) for each in (log_a, log_b))
    return terms(*inside).sum(-1)
