"""The plain kernel: torch in float64, as one would write it down, a block of rows at a time."""

from __future__ import annotations

from math import inf, log, log1p, nan

import torch
from torch import Tensor

from klbench.kernels.autograd import ABSENT, FOUND, LOG_SUM_Q, SHIFT
from klbench.kernels.overlap import Asked, Looks, log_probs

CACHED, BLOCK = 2**16, 2**20
"""Logits in a block, unless told: in main memory what a core's own cache holds in float64."""


def _rows(x: Tensor) -> int:
    return max(1, (CACHED if x.device.type == "cpu" else BLOCK) // x.shape[1])


def obstacle(policy: Tensor, reference: Tensor) -> str | None:
    """Return None: the reference takes all logits."""
    return None


def _log_softmax(logits: Tensor) -> Tensor:
    x = logits.double()
    return x.masked_fill(x <= ABSENT, -inf).log_softmax(-1)


def _block(policy: Tensor, reference: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
    log_q, log_p = _log_softmax(policy), _log_softmax(reference)
    q, p = log_q.exp(), log_p.exp()
    q_absent, p_absent = log_q.isneginf(), log_p.isneginf()
    # 0 log 0 is 0: any finite number will do in the place of log 0, and the gradient stays finite.
    some_q, some_p = log_q.masked_fill(q_absent, 0.0), log_p.masked_fill(p_absent, 0.0)
    at = tokens.long()[:, None]

    def infinite(where: Tensor, finite: Tensor) -> Tensor:
        # A product with a sum that is 1, so that its gradient is NaN, and so is itself in a row
        # that is.
        scale = torch.where(where, inf, 0.0)
        return torch.where(where, scale * (q.sum(-1) * p.sum(-1)), finite)

    return (
        log_q.gather(-1, at)[:, 0],
        log_p.gather(-1, at)[:, 0],
        infinite((p_absent & ~q_absent).any(-1), (q * (some_q - some_p)).sum(-1)),
        infinite((q_absent & ~p_absent).any(-1), (p * (some_p - some_q)).sum(-1)),
        -(q * some_q).sum(-1),
    )


def leading(logits: Tensor, k: int, block_rows: int | None) -> Tensor:
    """Return the ids of the k largest logits, in order, ``(n, k)``, by a stable sort."""
    rows = block_rows or _rows(logits)
    parts = [
        _log_softmax(x).sort(dim=-1, descending=True, stable=True).indices[:, :k]
        for x in torch.split(logits, rows)
    ]
    return torch.cat(parts)


def _log_sum(logits: Tensor) -> Tensor:
    """NaN where all are absent, as a log-softmax has it."""
    x = logits.double()
    total = x.masked_fill(x <= ABSENT, -inf).logsumexp(-1)
    return total.masked_fill(total.isinf(), nan)


def normalisers(policy: Tensor, reference: Tensor) -> Tensor:
    """Return what the compiled kernels find in their first pass, without the results.

    Shape ``(n, FOUND)``, float64.
    """
    found = torch.zeros(len(policy), FOUND, dtype=torch.float64, device=policy.device)
    for x, column in ((policy, LOG_SUM_Q), (reference, SHIFT)):
        parts = [_log_sum(part) for part in torch.split(x, _rows(x))]
        found[:, column] = torch.cat(parts)
    found[:, SHIFT] -= found[:, LOG_SUM_Q]
    return found


def looks(policy: Tensor, reference: Tensor, asked: Asked, block_rows: int | None) -> Looks:
    """Return the result of :class:`klbench.kernels.autograd.Implementation`, without the five."""
    places = leading(*asked.support(policy, reference), block_rows)
    n = len(policy)
    rows = block_rows or _rows(policy)
    out = torch.zeros(n, 4, dtype=torch.float64, device=policy.device)
    for start in range(0, n, rows):
        block = slice(start, start + rows)
        log_q, log_p = (_log_softmax(x[block]) for x in (policy, reference))
        q, p, gone = log_q.exp(), log_p.exp(), log_q.isneginf() & log_p.isneginf()
        out[block, 0] = (q - p).abs().sum(-1) / 2
        if asked.jsd is not None:
            a, b = (x.masked_fill(gone, 0.0) for x in (log_p, log_q))
            middle = torch.logaddexp(a + log(asked.jsd), b + log1p(-asked.jsd))
            parts = [
                torch.where(each.isneginf() | gone, 0.0, each.exp() * (each - middle))
                for each in (a, b)
            ]
            out[block, 1] = (asked.jsd * parts[0] + (1.0 - asked.jsd) * parts[1]).sum(-1)
        at = places[block]
        out[block, 2], out[block, 3] = (x.scatter(-1, at, 0.0).sum(-1) for x in (q, p))
    found = normalisers(policy, reference)
    return found, out, *log_probs(policy, reference, found, places)


def divergences(
    policy: Tensor, reference: Tensor, tokens: Tensor, block_rows: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``log_q, log_p, kl_qp, kl_pq, entropy``, each of shape ``(n,)``.

    To be differentiated by autograd.

    A gradient of 0 that arrives at an infinite divergence makes NaN here, as autograd does with 0
    times infinity.
    """
    rows = block_rows or _rows(policy)
    starts = range(0, max(1, len(tokens)), rows)  # one block at least, if an empty one
    blocks = [
        _block(*(x[start : start + rows] for x in (policy, reference, tokens))) for start in starts
    ]
    dtype = torch.float64 if torch.float64 in (policy.dtype, reference.dtype) else torch.float32
    log_q, log_p, kl_qp, kl_pq, entropy = (
        torch.cat(parts).to(dtype) for parts in zip(*blocks, strict=True)
    )
    return log_q, log_p, kl_qp, kl_pq, entropy
