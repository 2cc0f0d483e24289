"""Exact value, gradient and noise of objectives of distillation where every sequence of the student is enumerated.

The gradient is that in the student's logits, one for each token after each prefix of each prompt, whatever network they come
from, with each support held fixed. A sequence visits a prefix once at most, so that what its tokens add to the gradient are
vectors at right angles: moments follow from a recursion over prefixes, backward, without a list of sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from klbench.policies.tree import Tree
from klbench.rlhf.distillation import Pieces, pieces, support
from klbench.rlhf.objectives import Objective
from klbench.rlhf.testbed import reach


class Moments(NamedTuple):
    """The exact moments of an objective.

    Parameters
    ----------
    value
        Its expected estimate of the divergence of a sequence, in nats; the mean over prompts.
    gradient
        The expected gradient of that mean, ``(prompts, nodes, tokens)``.
    variance
        Trace of the covariance of one sequence's gradient given its prompt; the mean over prompts.
    """

    value: float
    gradient: Tensor
    variance: float


@dataclass(frozen=True, eq=False)
class States:
    """A student and a teacher at every prefix: next-token log-probabilities, ``(prompts, nodes, tokens)`` each.

    A single distribution is a tree of one prefix. ``writer`` has those of whoever writes the sequences; None: the student.
    """

    tree: Tree
    log_q: Tensor
    log_p: Tensor
    writer: Tensor | None = None

    @cached_property
    def often(self) -> Tensor:
        """Probability with which sequences come to each prefix, ``(prompts, nodes)``."""
        return reach(self.tree, self.log_q if self.writer is None else self.writer).exp()

    def mean(self, values: Tensor) -> float:
        """The mean over tokens of values of prefixes, ``(prompts, nodes)``."""
        return float((self.often * values).sum() / self.often.sum())

    def support(self, owner: str, k: int) -> Tensor:
        """The k most probable tokens of ``student`` or ``teacher`` after each prefix."""
        return support(self.log_q if owner == "student" else self.log_p, k)

    def _later(self, value: Tensor, discount: float) -> tuple[Tensor, Tensor]:
        """First and second moment of the discounted values that follow each token after each prefix."""
        first, second = torch.zeros_like(value), torch.zeros_like(value)
        if discount:
            q, tree = self.log_q.exp(), self.tree
            for depth in range(tree.horizon - 2, -1, -1):
                below, here = tree.level(depth + 1), tree.level(depth)
                v, m, s = value[:, below], first[:, below], second[:, below]
                mean = (q[:, below] * (v + m)).sum(-1)
                square = (q[:, below] * (v**2 + 2.0 * v * m + s)).sum(-1)
                shape = (len(value), -1, tree.vocabulary)
                first[:, here, :-1] = discount * mean.view(shape)
                second[:, here, :-1] = discount**2 * square.view(shape)
        return first, second

    def moments(self, objective: Objective, kept: Tensor) -> Moments:
        """Return what an objective gives on the student's own sequences."""
        q, prompts = self.log_q.exp(), len(self.log_q)
        found, path = self.differentiated(objective, kept)
        first, second = self._later(found.value, objective.discount)
        scored = against(q, found.score + first)
        square = found.score**2 + 2.0 * found.score * first + second
        length = 1.0 - 2.0 * q + (q**2).sum(-1, keepdim=True)  # of each token's score, squared
        local = path + scored
        squares = (path**2 + 2.0 * path * scored + q * square * length).sum(-1)
        gradient = self.often[..., None] * local
        norms = (gradient**2).sum((-2, -1))
        value = (self.often * (q * found.value).sum(-1)).sum() / prompts
        variance = ((self.often * squares).sum(-1) - norms).mean()
        return Moments(float(value), gradient / prompts, max(float(variance), 0.0))

    def differentiated(self, objective: Objective, kept: Tensor) -> tuple[Pieces, Tensor]:
        """Return an objective's pieces, and the gradient of its loss in the logits of each prefix by itself."""
        logits = self.log_q.detach().clone().requires_grad_()
        found = pieces(objective, logits.log_softmax(-1), self.log_p, kept)
        path = torch.zeros_like(logits)
        if found.loss.requires_grad:
            (path,) = torch.autograd.grad(found.loss.sum(), logits)
        # Tokens that are never sampled count for nothing, be their values infinite.
        value = found.value.masked_fill(self.log_q.isneginf(), 0.0)
        return Pieces(found.loss.detach(), found.score, value), path


def against(q: Tensor, coefficient: Tensor) -> Tensor:
    """``sum over a of q(a) c(a) d log q(a)/d logits = q (c - E c)``, over the last axis."""
    return q * (coefficient - (q * coefficient).sum(-1, keepdim=True))
