"""Moments of gradients whose weights are divided by their mean over a group, exactly.

With ``1/S = int e^{-sS} ds`` and ``1/S^2 = int s e^{-sS} ds`` the expectation of a product of sums
over independent sequences, divided by a sum over them, is an integral over ``s`` of products of
expectations over one sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NODES, FIRST = 144, -4.2
"""The nodes of the integral over ``s``, and where its variable begins: ``s = exp(t - exp(-t))``."""


@dataclass(frozen=True)
class Samples:
    """All sequences after one prompt.

    Parameters
    ----------
    probability
        Of each sequence, shape ``(n,)``.
    sums, numbers
        The sum of each sequence's weights, and how many they are, shape ``(n,)``.
    squares
        The squared length of each sequence's gradient, shape ``(n,)``.
    pull
        Factors of the sequences' gradients, shape ``(n,)``, to their weighted sum,
        ``(parameters,)``.
    """

    probability: Tensor
    sums: Tensor
    numbers: Tensor
    squares: Tensor
    pull: Callable[[Tensor], Tensor]


def moments(samples: Samples, n: int) -> tuple[Tensor, float]:
    """Return the expected gradient of a group of ``n``, and ``n`` times its variance.

    The gradient is ``1/n (sum of g) (sum of numbers) / (sum of sums)``, and 0 where nothing has a
    weight.
    """
    if bool((samples.sums == samples.numbers).all()):  # all weights are 1: it is a plain mean
        mean = samples.pull(samples.probability)
        return mean, float(samples.probability @ samples.squares) - float(mean @ mean)
    s, step = _rule(samples.sums)
    mean, square = torch.zeros_like(samples.pull(samples.probability)), 0.0
    for at, by in zip(s.tolist(), step.tolist(), strict=True):
        first, second = _integrands(samples, n, at)
        mean = mean + by / n * first
        square += at * by / n**2 * second
    return mean, n * (square - float(mean @ mean))


def _rule(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Return nodes and weights for ``s`` from 0 to where the smallest sum has decayed."""
    some = sums[sums > 0.0]
    low, high = (float(each) for each in (some.min(), some.max())) if len(some) else (1.0, 1.0)
    t = torch.linspace(FIRST, math.log(high / low) + math.log(45.0), NODES, dtype=sums.dtype)
    s = (t - (-t).exp()).exp() / high
    return s, s * (1.0 + (-t).exp()) * (t[1] - t[0])


def _integrands(samples: Samples, n: int, s: float) -> tuple[Tensor, float]:
    """Return the expectations of ``G N`` and of ``|G|^2 N^2``, sums over ``n`` sequences, times
    ``e^{-s S}``.
    """
    tilted = samples.probability * (-s * samples.sums).exp()
    number, squares = samples.numbers, samples.squares
    phi, l1, l2 = (float(tilted @ number**k) for k in range(3))
    a0, a1, a2 = (float(tilted @ (number**k * squares)) for k in range(3))
    equal = bool((number == number[0]).all())
    m0 = samples.pull(tilted)
    m1, m2 = ((m0 * number[0] ** k) if equal else samples.pull(tilted * number**k) for k in (1, 2))

    def times(distinct: int, value: float) -> float:
        """Return a product of ``distinct`` one-sequence expectations over all ordered choices of
        them.
        """
        return math.perm(n, distinct) * value * phi ** (n - distinct) if distinct <= n else 0.0

    first = times(1, 1.0) * m1 + times(2, l1) * m0
    second = (
        times(1, a2)
        + times(2, 2.0 * a1 * l1 + a0 * l2 + 2.0 * float(m2 @ m0) + 2.0 * float(m1 @ m1))
        + times(3, a0 * l1**2 + 4.0 * float(m1 @ m0) * l1 + float(m0 @ m0) * l2)
        + times(4, float(m0 @ m0) * l1**2)
    )
    return first, second
