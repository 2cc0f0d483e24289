"""The gradient of the compiled kernels.

Forward keeps four numbers a row, backward reads the logits again.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LOG_Q, LOG_P, KL_QP, KL_PQ, ENTROPY, MAX_Q, MAX_P, LOG_SUM_Q, SHIFT = range(9)
"""Columns of what forward finds in a row: the results, the largest logits, ``log sum exp(policy -
MAX_Q)``, and the same of the reference less that of the policy."""
FOUND = 9
ABSENT = -1e30
"""A logit of this or less is a probability of 0."""
Results: TypeAlias = "tuple[Tensor, Tensor, Tensor, Tensor, Tensor]"


class Implementation(Protocol):
    """A module with these functions."""

    def forward(
        self,
        policy: Tensor,
        reference: Tensor,
        tokens: Tensor,
        asked: Any,
        block_rows: int | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The columns above, of shape ``(n, FOUND)``, and what
        :data:`klbench.kernels.overlap.Looks` adds to them.
        """

    def backward(
        self,
        policy: Tensor,
        reference: Tensor,
        tokens: Tensor,
        found: Tensor,
        weights: Tensor,
        block_rows: int | None,
    ) -> Tensor:
        """The gradient of a sum of results with these weights, in shape and dtype of ``policy``.

        ``weights``, shape ``(n, 5)``, float32: of q log q/p, of p, of q log q, of q, and of the
        token alone; zeros where nothing is to be done. With ``u = log q/p`` the gradient is ``q (w0
        u + w2 log q + w3) + w1 p``, and ``w4`` more at the token.
        """


def _weights(found: Tensor, upstream: tuple[Tensor | None, ...]) -> Tensor:
    """Return the weights that make each logit's gradient from the gradients of the five results.

    ``d log_q = onehot - q``, ``d kl_qp = q (u - kl_qp)``, ``d kl_pq = q - p``, ``d entropy = -q
    (log q + entropy)``.
    """
    zero = torch.zeros_like(found[:, 0])
    log_q, _, kl_qp, kl_pq, entropy = (zero if g is None else g.to(found.dtype) for g in upstream)
    nowhere = torch.full_like(zero, torch.nan)
    # 0 where nobody asks: a divergence may be infinite in rows that the loss leaves out.
    center_qp = torch.where(
        kl_qp == 0, zero, torch.where(found[:, KL_QP].isinf(), nowhere, kl_qp * found[:, KL_QP])
    )
    center_pq = torch.where(kl_pq == 0, zero, torch.where(found[:, KL_PQ].isinf(), nowhere, kl_pq))
    center_h = torch.where(entropy == 0, zero, entropy * found[:, ENTROPY])
    return torch.stack(
        [kl_qp, -kl_pq, -entropy, center_pq - center_qp - center_h - log_q, log_q], dim=1
    ).float()


class _Divergences(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        policy: Tensor,
        reference: Tensor,
        tokens: Tensor,
        asked: Any,
        implementation: Any,
        block_rows: int | None,
    ) -> tuple[Tensor, ...]:
        looks = implementation.forward(policy, reference, tokens, asked, block_rows)
        found = looks[0]
        ctx.save_for_backward(policy, reference, tokens, found)
        ctx.set_materialize_grads(False)
        ctx.implementation, ctx.block_rows = implementation, block_rows
        results = tuple(found[:, k].float() for k in range(ENTROPY + 1))
        ctx.mark_non_differentiable(results[LOG_P], *looks)
        return *results, *looks

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        policy, reference, tokens, found = ctx.saved_tensors
        weights = _weights(found, upstream[:-4])
        gradient = ctx.implementation.backward(
            policy, reference, tokens, found, weights, ctx.block_rows
        )
        return gradient, None, None, None, None, None


def divergences(
    policy: Tensor,
    reference: Tensor,
    tokens: Tensor,
    asked: Any,
    implementation: Any,
    block_rows: int | None,
) -> tuple[Results, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """``log_q, log_p, kl_qp, kl_pq, entropy``, each ``(n,)`` and float32, and what ``forward``
    gives.

    The five but ``log_p`` have gradients.
    """
    apply: Any = _Divergences.apply
    log_q, log_p, kl_qp, kl_pq, entropy, *looks = apply(
        policy, reference, tokens, asked, implementation, block_rows
    )
    return (log_q, log_p, kl_qp, kl_pq, entropy), tuple(looks)
