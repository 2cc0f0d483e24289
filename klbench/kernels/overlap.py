"""The results that need both normalisers first, and so a second look at a row.

Total variation, the Jensen-Shannon divergence, and masses on the most probable tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from klbench.kernels.autograd import ABSENT, MAX_Q, SHIFT

VARIATION, JSD, TAIL_Q, TAIL_P = range(4)
"""Columns of a second look."""
SECOND = 4


@dataclass(frozen=True)
class Asked:
    """The results of a second look that are asked for.

    Parameters
    ----------
    jsd
        ``beta``; None: no Jensen-Shannon divergence.
    top
        How many of the most probable tokens, each; empty: no masses.
    by_policy
        Whether they are the policy's most probable ones, or the reference's.
    """

    total_variation: bool
    jsd: float | None
    top: tuple[int, ...]
    by_policy: bool

    def __bool__(self) -> bool:
        return self.total_variation or self.jsd is not None or bool(self.top)

    def support(self, policy: Tensor, reference: Tensor) -> tuple[Tensor, int]:
        """Whose most probable tokens, and how many at most; 0 where no masses are asked for."""
        size = policy.shape[1]
        return policy if self.by_policy else reference, min(max(self.top, default=0), size)


@dataclass(frozen=True)
class TopMass:
    """Masses on the ``k`` most probable tokens of policy or reference, for each k.

    Tensors of shape ``(n, len(ks))``.

    Parameters
    ----------
    policy, reference
        Of q and of p on these tokens, from 0 to 1.
    kl_qp
        KL(q‖p) if all other tokens are taken for one, in nats: at most that over all.
    """

    ks: tuple[int, ...]
    policy: Tensor
    reference: Tensor
    kl_qp: Tensor


Looks: TypeAlias = "tuple[Tensor, Tensor, Tensor, Tensor]"
"""The columns of a first look, the columns above, with masses beyond the most probable tokens, and
``log q`` and ``log p`` of these, in order, of equal ones the first first. Some are empty where
nobody asks.
"""


def _terms(log_a: Tensor, log_b: Tensor) -> Tensor:
    """``a (log a - log b)``, 0 where a is 0, infinite where b alone is."""
    return torch.where(log_a.isneginf(), 0.0, log_a.exp() * (log_a - log_b))


def _masses(
    log_q: Tensor, log_p: Tensor, tail_q: Tensor, tail_p: Tensor, ks: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Masses of q and p, and KL of the coarser ones, for each k.

    From log-probabilities on the largest support, ``(n, k)``, and masses beyond it. Tails are
    summed, since 1 less the rest would leave rounding of a small one.
    """
    q, p = log_q.exp(), log_p.exp()
    at = [min(k, q.shape[1]) for k in ks]
    tails = [
        torch.cat([x, tail[:, None]], dim=-1).flip(-1).cumsum(-1).flip(-1)[:, at]
        for x, tail in ((q, tail_q), (p, tail_p))
    ]
    heads = [k - 1 for k in at]
    lumped = _terms(tails[0].log(), tails[1].log())
    inside = _terms(log_q, log_p).cumsum(-1)[:, heads]
    return q.cumsum(-1)[:, heads], p.cumsum(-1)[:, heads], inside + lumped


def further(
    asked: Asked, looks: Looks, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None, TopMass | None]:
    """Total variation, Jensen-Shannon divergence and masses, where they are asked for."""
    _, second, log_q, log_p = (x.double() for x in looks)
    masses = None
    if asked.top:
        parts = _masses(log_q, log_p, second[:, TAIL_Q], second[:, TAIL_P], asked.top)
        masses = TopMass(asked.top, *(part.to(dtype) for part in parts))
    return (
        second[:, VARIATION].to(dtype) if asked.total_variation else None,
        second[:, JSD].to(dtype) if asked.jsd is not None else None,
        masses,
    )


def log_probs(
    policy: Tensor, reference: Tensor, found: Tensor, places: Tensor
) -> tuple[Tensor, Tensor]:
    """``log q`` and ``log p`` at the places of each row, float64."""
    start_q, start_p, log_sum, shift = found[:, MAX_Q : SHIFT + 1].double().T
    return (
        _log_probs(policy, places, start_q + log_sum),
        _log_probs(reference, places, start_p + (log_sum + shift)),
    )


def _log_probs(logits: Tensor, places: Tensor, normaliser: Tensor) -> Tensor:
    chosen = logits.gather(-1, places).double()
    return chosen.masked_fill(chosen <= ABSENT, -math.inf) - normaliser[:, None]
