"""Objectives of distillation as pure functions.

Of the student's and the teacher's log-probabilities at some states.

:mod:`klbench.rlhf.objectives` has their names and what they mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from klbench import divergences
from klbench.rlhf import topk
from klbench.rlhf.objectives import Arm, Objective
from klbench.rlhf.topk import raw
from klbench.rlhf.topk.raw import terms
from klbench.types import Draws


class Pieces(NamedTuple):
    """An objective at some states.

    Parameters
    ----------
    loss
        What is differentiated as it stands, ``(...)``.
    score
        A constant, ``(..., V)``: what multiplies the score of each token, were it sampled.
    value
        The estimate of the divergence of the state, ``(..., V)``, were that token sampled.
    """

    loss: Tensor
    score: Tensor
    value: Tensor


def support(log_probs: Tensor, k: int) -> Tensor:
    """Return the k most probable tokens as booleans, ``(..., V)``; of equal ones the first."""
    order = log_probs.detach().sort(dim=-1, descending=True, stable=True).indices[..., :k]
    return torch.zeros_like(log_probs, dtype=torch.bool).scatter(-1, order, True)


def _mixture(log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
    """``log(share a + (1 - share) b)``; where both are 0, a number that no term uses."""
    neither = log_a.isneginf() & log_b.isneginf()
    a, b = (each.masked_fill(neither, 0.0) for each in (log_a, log_b))
    return torch.logaddexp(a + math.log(share), b + math.log1p(-share))


def _divergence(name: str, log_q: Tensor, log_p: Tensor) -> Tensor:
    """A divergence of :mod:`klbench.divergences` over the whole vocabulary, with what q never
    reaches.
    """
    if name in ("kl_qp", "kl_pq"):
        sides = (log_q, log_p) if name == "kl_qp" else (log_p, log_q)
        return terms(*sides).sum(-1)
    absent = log_q.isneginf()
    gap: Tensor = divergences.get(name).gap(Draws((log_p - log_q).masked_fill(absent, 0.0)))
    missed = log_p.exp().masked_fill(~absent, 0.0).sum(-1)
    beyond = torch.where(missed > 0.0, missed * divergences.unreached(name), 0.0)
    return (log_q.exp() * gap).sum(-1) + beyond


def _jsd(log_q: Tensor, log_p: Tensor, beta: float) -> Tensor:
    middle = _mixture(log_p, log_q, beta)
    return (beta * terms(log_p, middle) + (1.0 - beta) * terms(log_q, middle)).sum(-1)


def loss(objective: Objective, log_q: Tensor, log_p: Tensor, kept: Tensor) -> Tensor:
    """The divergence, ``(...)``, that an objective of whole distributions puts in the loss."""
    log_a, log_b = (log_p, log_q) if objective.swapped else (log_q, log_p)
    if objective.kind.startswith(topk.PREFIX):
        found: Tensor = topk.get(objective.kind)(log_a, log_b, kept)
        return found
    kinds: dict[str, Callable[[], Tensor]] = {
        "full": lambda: _divergence(objective.divergence, log_q, log_p),
        "jsd": lambda: _jsd(log_q, log_p, objective.number),
        "skew": lambda: terms(log_a, _mixture(log_a, log_b, objective.number)).sum(-1),
    }
    return kinds[objective.kind]()


def _of_token(objective: Objective, log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """Return what multiplies a sampled token's score, and its estimate of the divergence,
    ``(..., V)`` each.
    """
    # Where q never samples any number serves.
    log_ratio = (log_p - log_q).masked_fill(log_q.isneginf(), 0.0)
    if objective.kind == "k1_reward":
        kl = terms(log_q, log_p).sum(-1, keepdim=True)
        return -log_ratio - kl if objective.baseline else -log_ratio, -log_ratio
    if objective.kind in ("k3_loss", "k3_ratio_loss"):
        # Differentiated: 1 - r. Times q over its detached self: k3 more, which leaves log q/p.
        slope = -torch.expm1(log_ratio) if objective.kind == "k3_loss" else -log_ratio
        return slope, divergences.get("kl_qp").gap(Draws(log_ratio))
    divergence, ratio = divergences.get(objective.divergence), log_ratio.exp()
    value = divergence.f(ratio)
    stopped = objective.kind == "f_reward_stopped"
    return value if stopped else value - ratio * divergence.df(ratio), value


def _with_tail(objective: Objective, log_q: Tensor, log_p: Tensor, kept: Tensor) -> Pieces:
    log_a, log_b = (log_p, log_q) if objective.swapped else (log_q, log_p)
    head = raw.divergence(log_a, log_b, kept)
    log_ratio = (log_p - log_q).detach().masked_fill(log_q.isneginf(), 0.0)
    corrected = objective.kind == "topk_corrected_tail"
    # Where q dlog q = dq, the slopes are d(q log q/p) = (log q/p + 1) dq and d(p log p/q) = -(p/q)
    # dq.
    if objective.swapped:
        term, slope = log_ratio.exp() * log_ratio, float(not corrected) - log_ratio.exp()
    else:
        term, slope = -log_ratio, float(corrected) - log_ratio
    outside = [torch.where(kept, 0.0, each) for each in (slope, term)]
    return Pieces(head, outside[0], head.detach()[..., None] + outside[1])


def pieces(objective: Objective, log_q: Tensor, log_p: Tensor, kept: Tensor) -> Pieces:
    """Return an objective at states whose next-token log-probabilities are ``(..., V)``.

    Parameters
    ----------
    log_q, log_p
        Of the student, to be differentiated, and of the teacher; ``-inf`` where there is no
        probability.
    kept
        The support, booleans ``(..., V)``; objectives without one do not look at it.
    """
    if objective.sent == "support and token":
        return _with_tail(objective, log_q, log_p, kept)
    if objective.sent == "token" or objective.baseline:
        score, value = _of_token(objective, log_q.detach(), log_p)
        return Pieces(torch.zeros_like(value[..., 0]), score, value)
    if objective.kind == "topk_reward":
        sides = (log_p, log_q) if objective.swapped else (log_q, log_p)
        value = raw.divergence(*sides, kept).detach()[..., None].expand_as(log_p)
        return Pieces(torch.zeros_like(value[..., 0]), value, value)
    found = loss(objective, log_q, log_p, kept)
    return Pieces(found, torch.zeros_like(log_p), found.detach()[..., None].expand_as(log_p))


def sequence_loss(arm: Arm, log_q: Tensor, log_p: Tensor, token: Tensor, mask: Tensor) -> Tensor:
    """The loss that a trainer differentiates, ``(..., n)``.

    Of each sequence, the sum over its tokens.

    Parameters
    ----------
    log_q, log_p
        Next-token log-probabilities along the sequences, ``(..., n, T, V)``; the student's are
        differentiated.
    token, mask
        The sequences, ``(..., n, T)``, and which of their tokens count.
    """
    kept = support(log_q if arm.owner == "student" else log_p, arm.k)
    found, chosen = pieces(arm.objective, log_q, log_p, kept), token[..., None]
    score, value = (
        torch.where(mask, each.gather(-1, chosen)[..., 0], 0.0)
        for each in (found.score, found.value)
    )
    score = score + _later(value, arm.objective.discount)
    taken = found.loss + score * log_q.gather(-1, chosen)[..., 0]
    return torch.where(mask, taken, 0.0).sum(-1)


def _later(value: Tensor, discount: float) -> Tensor:
    """The discounted sum of the values of later tokens, ``(..., T)``."""
    result = torch.zeros_like(value)
    if discount:
        for t in range(value.shape[-1] - 2, -1, -1):
            result[..., t] = discount * (value[..., t + 1] + result[..., t + 1])
    return result
