"""Rollouts by number: pieces of a file, one after the other, without a second look at what came before."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np

from klbench.rollouts.batch import Batch, part

TOKENS = 2**17
"""Tokens that are read at a time."""


class Place:
    """A file of rollouts, and how far it has been read."""

    def __init__(self, path: str) -> None:
        # With Arrow and pandas, which a wrong configuration need not wait for.
        self.reading: Any = import_module("klbench.rollouts.batches").read(path)
        self._batches: Iterator[Batch] = iter(())
        self._left: Batch | None = None
        self._next = -1

    @cached_property
    def rollouts(self) -> int:
        """The number of rollouts."""
        (first, *others) = self.reading.sources
        rows = first.container.rows
        if not others and rows is not None and self._direct:
            return rows
        return sum(batch.where.size for batch in self.reading.batches(TOKENS))

    @cached_property
    def _direct(self) -> bool:
        """True where a row is a rollout, so that one may begin anywhere."""
        reading = self.reading
        if reading.layout == "tokens" or reading.paired or len(reading.sources) > 1:
            return False
        first = next(reading.batches(tokens=1), None)
        return first is not None and np.array_equal(first.where, np.arange(first.where.size))

    def pieces(self, start: int, n: int) -> Iterator[Batch]:
        """Return rollouts ``start`` to ``start + n``, or to the end, in as many batches as it takes."""
        if not 0 <= self._next <= start:
            self._left = None
            self._next = start if self._direct else 0
            self._batches = self.reading.batches(TOKENS, start if self._direct else 0)
        while self._next < start + n:
            if self._left is None:
                self._left = next(self._batches, None)
                if self._left is None:
                    return
            size = self._left.where.size
            first, stop = max(start - self._next, 0), min(size, start + n - self._next)
            taken = part(self._left, first, stop) if first < size else None
            self._left = part(self._left, stop, size) if stop < size else None
            self._next += min(stop, size)
            if taken is not None:
                yield taken
