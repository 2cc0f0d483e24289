"""Score vectors of sequences: the gradients that every gradient estimator is a combination of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_BYTES = 16e6
"""The size of the gathered rows that :meth:`DenseScores.gram` holds at a time."""


@dataclass(frozen=True)
class DenseScores:
    """Scores by their rows; sequences that share a token or a prefix share its row.

    Parameters
    ----------
    edges
        Gradient of ``log q`` of each token after its prefix, shape ``(edges, parameters)``.
    nodes
        Gradient of ``KL(q(.|h) ‖ p(.|h))`` at each prefix h, shape ``(nodes, parameters)``.
    edge_of, node_of
        The rows of each sequence's tokens and of the prefixes before them, shape ``(n, T)``; any
        row where masked.
    mask
        Which of these count, shape ``(n, T)``.
    """

    edges: Tensor
    nodes: Tensor
    edge_of: Tensor
    node_of: Tensor
    mask: Tensor

    def pull(self, token: Tensor, full: Tensor | None = None) -> Tensor:
        """``sum of token[x, t] s_t(x) + full[x, t] d_t(x)``.

        ``(..., n, T)`` twice to ``(..., parameters)``; without ``full`` of the scores alone.
        """
        found = _totals(token, self.edge_of, self.mask, len(self.edges)) @ self.edges
        if full is not None:
            found += _totals(full, self.node_of, self.mask, len(self.nodes)) @ self.nodes
        return found

    def gram(self) -> Tensor:
        """Inner products of each sequence's own ``s_1 ... s_T, d_1 ... d_T``.

        Shape ``(n, 2T, 2T)``.

        Neighbours that differ in their last token alone, a family of a tree's leaves, share all
        products but that token's.
        """
        import torch

        n, T = self.mask.shape
        before = torch.cat([self.edge_of[:, :-1], self.node_of], dim=1)
        counts = torch.cat([self.mask[:, :-1], self.mask], dim=1)
        families, family, sizes = torch.unique_consecutive(
            torch.where(counts, before, -1), dim=0, return_inverse=True, return_counts=True
        )
        families = families.clamp(min=0)
        ends = sizes.cumsum(0)
        member = torch.arange(n) - (ends - sizes)[family]
        squares = torch.linalg.vector_norm(self.edges, dim=1) ** 2
        shared, last = torch.tensor([*range(T - 1), *range(T, 2 * T)]), T - 1

        result = self.edges.new_empty(n, 2 * T, 2 * T)
        step = max(1, int(CHUNK_BYTES / (8 * self.edges.shape[1] * (2 * T - 1 + int(sizes.max())))))
        for start in range(0, len(families), step):
            some = families[start : start + step]
            part = slice(int(ends[start] - sizes[start]), int(ends[start + len(some) - 1]))
            own, place = family[part] - start, member[part]
            tokens = some.new_zeros(len(some), int(sizes[start : start + len(some)].max()))
            tokens[own, place] = self.edge_of[part, last]
            rows = torch.cat([self.edges[some[:, : T - 1]], self.nodes[some[:, T - 1 :]]], dim=1)
            block = result[part]
            block[:, shared[:, None], shared] = torch.bmm(rows, rows.mT)[own]
            mixed = torch.bmm(self.edges[tokens], rows.mT)[own, place]
            block[:, last, shared] = mixed
            block[:, shared, last] = mixed
            block[:, last, last] = squares[self.edge_of[part, last]]
        return result.masked_fill_(~_square(self.mask), 0.0)


@dataclass(frozen=True)
class TableScores:
    """Scores of a table of logits, a row of it for each prefix: all their products in closed form.

    In the logits of its row ``s = e_a - q`` and ``d = q (log q/p - kl)``; scores at different
    prefixes share no parameter.

    Parameters
    ----------
    log_q, log_p
        Log-probabilities of the next token at each prefix, shape ``(rows, tokens)``.
    node_of, token_of, mask
        Each sequence's prefixes and tokens, and which of them count, shape ``(n, T)``.
    parameters, start
        Length of the whole parameter vector, and where in it these rows begin.
    """

    log_q: Tensor
    log_p: Tensor
    node_of: Tensor
    token_of: Tensor
    mask: Tensor
    parameters: int
    start: int = 0

    def _full(self) -> Tensor:
        """``d`` at each prefix, in its own row of the table: shape ``(rows, tokens)``."""
        q = self.log_q.exp()
        return against_softmax(q * (self.log_q - self.log_p), q)

    def pull(self, token: Tensor, full: Tensor | None = None) -> Tensor:
        """``sum of token[x, t] s_t(x) + full[x, t] d_t(x)``.

        ``(..., n, T)`` twice to ``(..., parameters)``; without ``full`` of the scores alone.
        """
        rows, tokens = self.log_q.shape
        taken = _totals(
            token, self.node_of * tokens + self.token_of, self.mask, rows * tokens
        ).view(*token.shape[:-2], rows, tokens)
        table = against_softmax(taken, self.log_q.exp())
        if full is not None:
            table += _totals(full, self.node_of, self.mask, rows)[..., None] * self._full()
        result = self.log_q.new_zeros(*token.shape[:-2], self.parameters)
        result[..., self.start : self.start + rows * tokens] = table.flatten(-2)
        return result

    def gram(self) -> Tensor:
        """Inner products of each sequence's own ``s_1 ... s_T, d_1 ... d_T``.

        Shape ``(n, 2T, 2T)``.
        """
        q, d = self.log_q.exp(), self._full()
        edge_of = self.node_of * q.shape[1] + self.token_of
        token = (others(q) ** 2 + others(q * q)).flatten()[edge_of]
        mixed = (d * others(q) - others(q * d)).flatten()[edge_of]  # d sums to 0
        full = (d * d).sum(1)[self.node_of]
        n, T = self.mask.shape
        result = self.log_q.new_zeros(n, 2 * T, 2 * T)
        for part, row, column in ((token, 0, 0), (mixed, 0, T), (mixed, T, 0), (full, T, T)):
            result[:, row : row + T, column : column + T].diagonal(dim1=1, dim2=2).copy_(
                part.where(self.mask, 0.0)
            )
        return result


def others(x: Tensor) -> Tensor:
    """Sums over all other entries of the last axis, nowhere as a difference: shape of ``x``.

    ``others(q)`` is ``1 - q`` with all its digits where q is 1 but for what is rarer than rounding.
    """
    import torch

    before = torch.cat([torch.zeros_like(x[..., :1]), x[..., :-1].cumsum(-1)], dim=-1)
    after = torch.cat(
        [x[..., 1:].flip(-1).cumsum(-1).flip(-1), torch.zeros_like(x[..., :1])], dim=-1
    )
    return before + after


def against_softmax(weights: Tensor, q: Tensor) -> Tensor:
    """``sum over a of weights[a] (e_a - q)``, the weighted scores of a softmax in its logits.

    q sums to 1 on the last axis.
    """
    return weights * others(q) - q * others(weights)


def _totals(values: Tensor, places: Tensor, mask: Tensor, size: int) -> Tensor:
    """Sums of the values that count, by place: ``(..., n, T)`` to ``(..., size)``."""
    counted = values.where(mask, 0.0).flatten(-2)
    return values.new_zeros(*values.shape[:-2], size).index_add_(-1, places.flatten(), counted)


def _square(mask: Tensor) -> Tensor:
    import torch

    twice = torch.cat([mask, mask], dim=1)
    return twice[:, :, None] & twice[:, None, :]
