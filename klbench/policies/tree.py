"""The tree of all sequences up to a horizon, as index arithmetic."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from klbench.policies import leaves


class Paths(NamedTuple):
    """Each sequence's prefixes, tokens, and which of them count: three times ``(n, horizon)``.

    0 where masked.
    """

    node: Tensor
    token: Tensor
    mask: Tensor


class Tree:
    """Sequences over ``vocabulary`` ordinary tokens and one that ends them, cut off at ``horizon``
    tokens.

    Tokens are ``0 ... vocabulary``, the last one ends. Inner prefixes are numbered by depth, then
    in base ``vocabulary``. Leaves: by length, the sequences that end before the horizon; then those
    of full length, ended or cut off.
    """

    def __init__(self, vocabulary: int, horizon: int) -> None:
        self.vocabulary, self.horizon = vocabulary, horizon
        self.tokens = vocabulary + 1
        self.widths = [vocabulary**depth for depth in range(horizon)]
        self.starts = [sum(self.widths[:depth]) for depth in range(horizon)]
        self.nodes = sum(self.widths)
        self.leaves = leaves(vocabulary, horizon)

    def level(self, depth: int) -> slice:
        """The inner prefixes of that depth."""
        return slice(self.starts[depth], self.starts[depth] + self.widths[depth])

    def prefixes(self, depth: int) -> Tensor:
        """The tokens of each prefix of that depth: shape ``(vocabulary**depth, depth)``."""
        index = torch.arange(self.widths[depth])
        powers = [self.vocabulary ** (depth - 1 - t) for t in range(depth)]
        return (
            torch.stack([index // power % self.vocabulary for power in powers], dim=1)
            if depth
            else index[:, None][:, :0]
        )

    def child(self, node: Tensor, token: Tensor, depth: int) -> Tensor:
        """The prefix that a token after a prefix of that depth makes, for ordinary tokens above
        the last depth.
        """
        return self.starts[depth + 1] + (node - self.starts[depth]) * self.vocabulary + token

    def sum_along(self, log_probs: Tensor) -> Tensor:
        """Log-probabilities of the next token, ``(..., nodes, tokens)``, to those of all leaves,
        ``(..., leaves)``.
        """
        apply: Any = _SumAlong.apply
        result: Tensor = apply(log_probs, self)
        return result

    @cached_property
    def paths(self) -> Paths:
        """The way to each leaf."""
        node, token = torch.zeros(2, self.leaves, self.horizon, dtype=torch.int64)
        mask = torch.zeros(self.leaves, self.horizon, dtype=torch.bool)
        start = 0
        for depth in range(self.horizon):
            repeats = self.tokens if depth == self.horizon - 1 else 1
            part = slice(start, start + self.widths[depth] * repeats)
            start = part.stop
            index = torch.arange(self.widths[depth]).repeat_interleave(repeats)
            for t in range(depth + 1):
                node[part, t] = self.starts[t] + index // self.vocabulary ** (depth - t)
            token[part, :depth] = self.prefixes(depth).repeat_interleave(repeats, dim=0)
            token[part, depth] = (
                torch.arange(self.tokens).repeat(self.widths[depth])
                if repeats > 1
                else self.vocabulary
            )
            mask[part, : depth + 1] = True
        return Paths(node, token, mask)

    @cached_property
    def lengths(self) -> Tensor:
        """The number of tokens of each leaf, ``(leaves,)``."""
        return self.paths.mask.sum(-1)


class _SumAlong(torch.autograd.Function):
    """Sums along the tree, and their gradient: what each token after each prefix adds to is the
    leaves below it.
    """

    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, tree: Tree) -> Tensor:
        ctx.tree = tree
        reach = torch.zeros_like(log_probs[..., :1, 0])
        ended = []
        *levels, last = torch.split(log_probs, tree.widths, -2)
        for level in levels:
            after = reach[..., None] + level
            ended.append(after[..., -1])
            reach = after[..., :-1].flatten(-2)
        return torch.cat([*ended, (reach[..., None] + last).flatten(-2)], dim=-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        tree = ctx.tree
        *ended, last = torch.split(gradient, [*tree.widths[:-1], tree.widths[-1] * tree.tokens], -1)
        levels = [torch.unflatten(last, -1, (-1, tree.tokens))]
        for end in ended[::-1]:
            below = torch.unflatten(levels[-1].sum(-1), -1, (-1, tree.vocabulary))
            levels.append(torch.cat([below, end[..., None]], dim=-1))
        return torch.cat(levels[::-1], dim=-2), None
