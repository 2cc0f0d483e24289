"""Moments of gradients whose terms have the mean over all tokens of a group subtracted, exactly.

The mean is a ratio of two sums over the group, of terms and of tokens. Given how many tokens each
sequence has, the denominator is a number; expectations are kept by length and convolved.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
import torch
from torch import Tensor

from klbench.types import Atoms

Block = tuple[str, ...]
"""The letters of one sequence: K its sum of terms, A and V its gradient and the baseline's."""


def partitions(letters: Block) -> Iterator[list[Block]]:
    """Return every way to give letters to distinct sequences."""
    if not letters:
        yield []
        return
    first, rest = letters[0], letters[1:]
    for blocks in partitions(rest):
        yield [(first,), *blocks]
        for i, block in enumerate(blocks):
            yield [*blocks[:i], (first, *block), *blocks[i + 1 :]]


@dataclass(frozen=True)
class Samples:
    """All sequences after one prompt.

    The gradient of a group of ``n`` is ``1/n (sum of A - (sum of K) / (sum of L) sum of V)``, with
    ``L`` a sequence's number of tokens.

    Parameters
    ----------
    total
        ``K``, the sum of each sequence's terms, ``(N,)``.
    own, baseline
        The factors of the scores in ``A`` and in ``V``, ``(N, T)``.
    """

    atoms: Atoms
    gram: Tensor
    total: Tensor
    own: Tensor
    baseline: Tensor

    def moments(self, n: int) -> tuple[Tensor, float]:
        """Return the expected gradient of a group of ``n``, and ``n`` times its variance."""
        mean = (self._sum(("A",), n, 0) - self._sum(("K", "V"), n, 1)) / n
        square = (
            self._sum(("A", "A"), n, 0)
            - 2.0 * self._sum(("K", "A", "V"), n, 1)
            + self._sum(("K", "K", "V", "V"), n, 2)
        ) / n**2
        return torch.from_numpy(mean), n * (float(square[0]) - float(mean @ mean))

    def _sum(self, letters: Block, n: int, power: int) -> np.ndarray:
        """Return the expected product of sums over the group, over its tokens to a power.

        ``(parameters,)`` with one vector among the letters, ``(1,)`` with the inner product of two.
        """
        total: np.ndarray = np.zeros(1)
        for blocks in partitions(letters):
            if len(blocks) > n:
                continue
            by_length = self._of_group([*blocks, *[()] * (n - len(blocks))])
            tokens = np.maximum(np.arange(len(by_length), dtype=float), 1.0)
            ways = math.perm(n, len(blocks))
            total = total + ways * (tokens**-power) @ by_length
        return total

    def _of_group(self, blocks: Sequence[Block]) -> np.ndarray:
        """Return the product of expectations of distinct sequences, by their number of tokens."""
        one = [self._of_one(each) for each in blocks]
        numbers = reduce(_convolved, [each for each in one if each.shape[1] == 1], np.ones((1, 1)))
        vectors = [each for each in one if each.shape[1] > 1]
        if len(vectors) == 2:
            products = vectors[0] @ vectors[1].T
            size = len(products)
            vectors = [np.array([[np.trace(products[::-1], k)] for k in range(1 - size, size)])]
        return reduce(_convolved, vectors, numbers)

    def _of_one(self, block: Block) -> np.ndarray:
        """Return a sequence's expected product, ``(lengths, 1)`` or ``(lengths, parameters)``."""
        if block not in self._known:
            self._known[block] = self._computed(block)
        return self._known[block]

    @cached_property
    def _known(self) -> dict[Block, np.ndarray]:
        return {}

    def _computed(self, block: Block) -> np.ndarray:
        factor = self.total ** block.count("K")
        vectors = [self.own if each == "A" else self.baseline for each in block if each != "K"]
        tokens = self.atoms.rollouts.mask.sum(-1)
        longest = self.own.shape[-1]
        at = torch.nn.functional.one_hot(tokens, longest + 1).to(factor.dtype).T
        if len(vectors) == 1:
            found = torch.stack([self._pulled((row * factor)[:, None] * vectors[0]) for row in at])
            return found.numpy()
        if vectors:
            scores = self.gram[:, :longest, :longest]
            factor = factor * torch.einsum("ns,nst,nt->n", vectors[0], scores, vectors[1])
        return (at @ (self.atoms.probability * factor))[:, None].numpy()

    def _pulled(self, token: Tensor) -> Tensor:
        return self.atoms.scores.pull(self.atoms.probability[:, None] * token)


def _convolved(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the product of two polynomials in the number of tokens, one of them of numbers."""
    x, y = (x, y) if x.shape[1] == 1 else (y, x)
    result = np.zeros((len(x) + len(y) - 1, y.shape[1]))
    for k, number in enumerate(x[:, 0]):
        result[k : k + len(y)] += number * y
    return result
