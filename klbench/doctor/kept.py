"""Whole rollouts that are kept for what sums cannot tell: of a large file every k-th."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

MOST = 2**17
"""Tokens that are kept at most."""
FAR = 1e30
"""Numbers, and log-ratios, beyond are cut to it, lest their powers overflow."""


@dataclass
class Kept:
    """Some rollouts of a file, all tokens one after the other, those that do not count as well.

    Parameters
    ----------
    stride
        One rollout in so many is kept.
    number
        Number of each kept rollout in its file, ``(n,)``; ``lengths`` how many tokens it has.
    columns
        Log-probabilities by role, ``(tokens,)``.
    """

    stride: int = 1
    number: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    mask: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    tokens: np.ndarray | None = None
    prompt: np.ndarray | None = None
    version: np.ndarray | None = None
    step: np.ndarray | None = None
    reward: np.ndarray | None = None
    whole: bool = True

    def add(self, batch: Any, first: int) -> None:
        """Take in a batch whose first rollout has that number."""
        n = batch.offsets.size - 1
        self.merge(
            Kept(
                1,
                np.arange(first, first + n),
                np.diff(batch.offsets),
                batch.mask,
                {role: _bounded(values) for role, values in batch.columns.items()},
                batch.tokens,
                batch.prompt,
                batch.version,
                batch.step,
                batch.reward,
            )
        )

    def merge(self, later: Kept) -> None:
        """Take in what was kept of others, thinned as this is, or this as they are."""
        stride = max(self.stride, later.stride)
        self._thin(stride)
        later._thin(stride)
        if not self.number.size:
            self.__dict__.update(later.__dict__)
        elif later.number.size:
            self._join(later)
        while self.mask.size > MOST and self.number.size > 1:
            self._thin(2 * self.stride)

    def _join(self, later: Kept) -> None:
        for name in ("number", "lengths", "mask"):
            setattr(self, name, np.concatenate([getattr(self, name), getattr(later, name)]))
        roles = self.columns.keys() & later.columns.keys()
        self.columns = {
            role: np.concatenate([self.columns[role], later.columns[role]])
            for role in self.columns
            if role in roles
        }
        for name in ("tokens", "prompt", "version", "step", "reward"):
            one, other = getattr(self, name), getattr(later, name)
            both = None if one is None or other is None else np.concatenate([one, other])
            setattr(self, name, both)

    def _thin(self, stride: int) -> None:
        if stride == self.stride:
            return
        rows = self.number % stride == 0
        tokens = np.repeat(rows, self.lengths)
        self.stride, self.whole = stride, False
        self.number, self.lengths, self.mask = (
            self.number[rows],
            self.lengths[rows],
            self.mask[tokens],
        )
        self.columns = {role: values[tokens] for role, values in self.columns.items()}
        self.tokens = None if self.tokens is None else self.tokens[tokens]
        for name in ("prompt", "version", "step", "reward"):
            value = getattr(self, name)
            setattr(self, name, None if value is None else value[rows])

    @cached_property
    def every_row(self) -> np.ndarray:
        """Return the rollout of each token, whether it counts or not."""
        return np.repeat(np.arange(self.lengths.size), self.lengths)

    @cached_property
    def counted(self) -> Counted:
        """Return the tokens that count."""
        row = self.every_row[self.mask]
        counts = np.bincount(row, minlength=self.lengths.size)
        position = np.arange(row.size) - np.repeat(np.cumsum(counts) - counts, counts)
        columns = {role: values[self.mask] for role, values in self.columns.items()}
        tokens = None if self.tokens is None else self.tokens[self.mask]
        if tokens is not None and (tokens.size == 0 or (tokens < 0).mean() > 0.5):
            tokens = None
        return Counted(row, position, counts, columns, tokens, self.prompt)


def _bounded(values: np.ndarray) -> np.ndarray:
    """Return the same with finite numbers beyond ``FAR`` cut to it."""
    far = (np.abs(values) > FAR) & np.isfinite(values)
    return np.where(far, np.copysign(FAR, values), values) if far.any() else values


@dataclass(frozen=True)
class Counted:
    """The tokens that count of the kept rollouts.

    Parameters
    ----------
    row, position
        Rollout and place of each.
    counts
        How many each rollout has.
    """

    row: np.ndarray
    position: np.ndarray
    counts: np.ndarray
    columns: Mapping[str, np.ndarray]
    tokens: np.ndarray | None
    prompt: np.ndarray | None

    def ratio(self, above: str, below: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the log-ratio of two columns where it is finite, and which tokens these are."""
        with np.errstate(invalid="ignore"):
            x = self.columns[above] - self.columns[below]
        index = np.flatnonzero(np.isfinite(x))
        return np.clip(x[index], -FAR, FAR), index

    def neighbours(self) -> np.ndarray:
        """Return the places of tokens that are followed by one of the same rollout."""
        return np.flatnonzero(self.row[1:] == self.row[:-1])

    @cached_property
    def contexts(self) -> np.ndarray | None:
        """Return a number a token, the same where prompt and all tokens before are the same.

        Needs prompts that repeat: only then are contexts the same.
        """
        if self.tokens is None or self.prompt is None:
            return None
        return _contexts(self.prompt[self.row], self.position, self.tokens)


def _contexts(prompt: np.ndarray, position: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return a hash of what stands before each token; unique numbers beyond the first few."""
    state = prompt.astype(np.uint64)
    first = position < FEW
    result = np.arange(tokens.size, dtype=np.uint64) + np.uint64(2**63)
    begin = np.flatnonzero(position == 0)
    lengths = np.diff(np.append(begin, tokens.size))
    running = state[begin]
    for k in range(FEW):
        there = lengths > k
        at = begin[there] + k
        result[at] = _mixed(running[there], np.uint64(k)) >> np.uint64(1)
        running[there] = _mixed(running[there], tokens[at].astype(np.uint64))
    result[~first] = np.arange(int((~first).sum()), dtype=np.uint64) + np.uint64(2**63)
    return result


FEW = 4
"""Contexts are compared at so many places from the start: further on hardly any two are the same.
"""


def _mixed(state: np.ndarray, word: np.ndarray | np.uint64) -> np.ndarray:
    """Return a hash of two numbers. (The finalizer of SplitMix64, Steele, Lea and Flood 2014.)"""
    with np.errstate(over="ignore"):
        x = state * np.uint64(0x9E3779B97F4A7C15) + word + np.uint64(0x632BE59BD9B4E019)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))
