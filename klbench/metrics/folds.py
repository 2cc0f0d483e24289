"""Sums over batches of several sizes, each made from the ones before."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np

from klbench.metrics import loops


class Folds:
    """The division of a panel of samples into batches of each size, and of each batch into its
    folds.

    Which samples share a batch is left open, since all are independent. The batches of all sizes
    stand side by side in one array, so that what follows from their sums is computed for all of
    them at once.

    Parameters
    ----------
    samples
        In the panel; those that fill no batch are left out.
    sizes
        Batch sizes, ascending, none below ``folds`` or above ``samples``.
    folds
        Parts that a batch is cut into.

    Attributes
    ----------
    parts
        Where the batches of each size stand.
    ends
        Where those of each size end.
    size
        The size of each batch, ``(batches,)``.
    """

    def __init__(self, samples: int, sizes: Sequence[int], folds: int) -> None:
        counts = [samples // n for n in sizes]
        ends = list(accumulate(counts))
        self.ends = np.array(ends, dtype=np.int64)
        self.parts = [slice(end - count, end) for count, end in zip(counts, ends, strict=True)]
        self.size = np.repeat(np.array(sizes, dtype=float), counts)
        total = self.size.size
        steps = []
        for f in range(folds):
            for j, (n, part, count) in enumerate(zip(sizes, self.parts, counts, strict=True)):
                i = next(
                    (i for i in reversed(range(j)) if n % sizes[i] == 0 and sizes[i] % folds == 0),
                    None,
                )
                if i is not None:  # this fold's sums over smaller batches
                    again, start, rows = 1, f * total + self.parts[i].start, n // sizes[i]
                else:
                    first, last = f * n // folds, (f + 1) * n // folds
                    again, start, rows = 0, first * count, last - first
                steps.append((again, start, rows, f * total + part.start, count))
        self._folds, self._steps = folds, np.array(steps, dtype=np.int64).reshape(-1, 5)

    def sums(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """Sums of each of ``values``, float64 of shape ``(samples,)``, over all folds.

        ``(values, folds, batches)``.
        """
        result = np.empty((len(values), self._folds, self.size.size))
        for x, row in zip(values, result.reshape(len(values), -1), strict=True):
            loops.fold(np.ascontiguousarray(x), self._steps, row)
        return result

    def tally_means(self, terms: np.ndarray, center: float, *kept: Any) -> None:
        """Form the means of all batches of ``terms``, of one fold, and :func:`loops.tally` them."""
        loops.tally_means(terms, center, self._steps, self.size, self.ends, *kept)


@lru_cache(maxsize=8)
def folds(samples: int, sizes: tuple[int, ...], per_batch: int = 1) -> Folds:
    """The same, kept: panels are many and nearly all of one size."""
    return Folds(samples, sizes, per_batch)
