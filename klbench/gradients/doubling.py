"""Moments of sums over a Markov chain, by doubling: exact at any length, in as many steps as the length has digits.

A segment of a sequence leaves numbers and vectors behind: R, a sum over its tokens; Z, the sum of their weighted scores; G, its
gradient; W, the product of its weights. What two segments leave follows from what each leaves: ``R = R1 + R2``,
``Z = Z1 + Z2``, ``G = G1 + G2 + R2 Z1 + R1 Z2``. Given the state between them the two are independent, so that the mean of
any product of these is a sum of products of means, one of each segment. Which of them a mean needs is found by expanding it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

Monomial = str
"""A product by its letters, in alphabetical order: ``GRZ`` is R times the inner product of G and Z; ``""`` is 1."""
VECTORS = frozenset("GZ")
Rules = tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
"""For each letter of the whole, the products of one of the first segment and one of the second whose sum it is."""

_SUMS = (("R", (("R", ""), ("", "R"))), ("Z", (("Z", ""), ("", "Z"))))
SUM: Rules = (("G", (("G", ""), ("", "G"))),)
"""G is a sum over tokens."""
TO_GO: Rules = (*_SUMS, ("G", (("G", ""), ("", "G"), ("Z", "R"))))
"""Each token's number times the scores up to it."""
WHOLE: Rules = (*_SUMS, ("G", (("G", ""), ("", "G"), ("Z", "R"), ("R", "Z"))))
"""The sum of all numbers times that of all scores."""
PREFIX: Rules = (
    ("W", (("W", "W"),)),
    ("R", (("R", ""), ("W", "R"))),
    _SUMS[1],
    ("G", (("G", ""), ("W", "G"), ("WZ", "R"))),
)
"""Each token's number times the weights and the scores up to it."""
PREFIX_REWARD: Rules = (
    PREFIX[0],
    _SUMS[0],
    ("Z", (("Z", ""), ("W", "Z"))),
    ("G", (("G", ""), ("W", "G"), ("Z", "R"))),
)
"""Each token's number times the weighted scores up to it, each weighted with all weights up to its own."""

DISCOUNTED: Rules = (
    ("D", (("D", "D"),)),
    ("R", (("R", ""), ("D", "R"))),
    ("Z", (("Z", "D"), ("", "Z"))),
    ("G", (("G", ""), ("", "G"), ("Z", "R"))),
)
"""The same without weights, each number discounted by D for each token between it and the score."""


@cache
def expansion(monomial: Monomial, rules: Rules) -> tuple[tuple[Monomial, Monomial, int], ...]:
    """Return the products of one mean of each segment, and how often each comes, whose sum is the mean of the whole."""
    terms = dict(rules)
    found = Counter(
        ("".join(sorted("".join(left))), "".join(sorted("".join(right))))
        for chosen in product(*(terms[letter] for letter in monomial))
        for left, right in [tuple(zip(*chosen, strict=True)) if chosen else ((), ())]
    )
    return tuple((left, right, count) for (left, right), count in found.items())


@cache
def closure(monomials: tuple[Monomial, ...], rules: Rules) -> tuple[Monomial, ...]:
    """Return all products that the means of these need."""
    found, open_ = {"": None}, list(monomials)
    while open_:
        monomial = open_.pop()
        if monomial not in found:
            found[monomial] = None
            for left, right, _ in expansion(monomial, rules):
                open_ += (left, right)
    return tuple(found)


def rank(monomial: Monomial) -> int:
    """Return how many vectors a product has: it is a vector itself where there is one."""
    return sum(letter in VECTORS for letter in monomial)


@dataclass(frozen=True)
class Segment:
    """The means of products over a segment, by first and last state.

    ``means`` are ``(..., states, states)``, of vectors ``(..., states, states, parameters)``, and stand for
    ``exp(log_scale)`` times as much, ``(...)``.
    """

    means: Mapping[Monomial, np.ndarray]
    log_scale: np.ndarray

    def then(self, later: Segment, rules: Rules) -> Segment:
        """Return this segment and a later one together."""
        # A prefix's weights may be beyond a float: their moments then are inf or NaN, which a reader takes for infinite.
        with np.errstate(over="ignore", invalid="ignore"):
            means = {
                monomial: sum(
                    (
                        count
                        * _joined(self.means[left], later.means[right], rank(left), rank(right))
                        for left, right, count in expansion(monomial, rules)
                    ),
                    start=np.zeros(()),
                )
                for monomial in self.means
            }
        size = means[""].max((-2, -1))
        scale = np.where(size > 0.0, size, 1.0)
        scaled = {
            monomial: mean / scale.reshape(scale.shape + (1,) * (mean.ndim - scale.ndim))
            for monomial, mean in means.items()
        }
        return Segment(scaled, self.log_scale + later.log_scale + np.log(scale))

    def read(self, monomial: Monomial, start: np.ndarray) -> np.ndarray:
        """Return a mean over all sequences that begin with ``start``, ``(..., states)``, in units of ``exp(log_scale)``."""
        mean = self.means[monomial]
        if rank(monomial) == 1:
            result: np.ndarray = np.einsum("...i,...ijp->...p", start, mean)
        else:
            result = np.einsum("...i,...ij->...", start, mean)
        return result


def _joined(left: np.ndarray, right: np.ndarray, rank_left: int, rank_right: int) -> np.ndarray:
    """Return the sum over the state between two segments."""
    if rank_left == 1 and rank_right == 1:
        *batch, states, _, size = left.shape
        rows = left.reshape(*batch, states, -1)
        columns = np.swapaxes(right, -1, -2).reshape(*batch, states * size, -1)
        return np.matmul(rows, columns)
    if rank_left == 1:
        return np.swapaxes(np.matmul(np.swapaxes(left, -1, -2), right[..., None, :, :]), -1, -2)
    if rank_right == 1:
        *batch, states, _, size = right.shape
        return np.matmul(left, right.reshape(*batch, states, -1)).reshape(right.shape)
    return np.matmul(left, right)


def over_length(token: Segment, lengths: Iterable[int], rules: Rules) -> dict[int, Segment]:
    """Return the segments of so many tokens, from that of one."""
    wanted = sorted(set(lengths))
    powers = [token]
    while 2 ** len(powers) <= wanted[-1]:
        powers.append(powers[-1].then(powers[-1], rules))
    found = {}
    for length in wanted:
        digits = [powers[k] for k in range(len(powers)) if length >> k & 1]
        whole = digits[0]
        for more in digits[1:]:
            whole = whole.then(more, rules)
        found[length] = whole
    return found
