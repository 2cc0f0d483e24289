"""The statistics of one panel of samples.

Means and variances of every estimator, and counts over batches of each size.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import stdtrit

from klbench.metrics import loops
from klbench.metrics.folds import folds
from klbench.types import Draws, Estimator


@dataclass(frozen=True)
class Plan:
    """The measurements to make on every panel.

    Parameters
    ----------
    estimators
        In table order.
    truths
        The truth of each estimator's target; NaN where unknown.
    batches
        Batch sizes, ascending.
    """

    estimators: tuple[Estimator, ...]
    truths: tuple[float, ...]
    batches: tuple[int, ...]

    @cached_property
    def columns(self) -> list[tuple[int, int]]:
        """The columns of the panel vectors: ``(estimator, batch)``.

        Batch 0 for terms that are independent of each other.
        """
        return [
            (i, n)
            for i, e in enumerate(self.estimators)
            for n in (
                (0,) if e.batch is None else (n for n in self.batches if n >= e.batch.min_size)
            )
        ]


@dataclass
class Counts:
    """Counts over batches, one entry an estimator and a batch size, ``(e, b)``; additive.

    ``tested`` are those that have an interval, which may have ``covered`` a known truth. ``errors``
    keeps the first batch errors of each kind for their distribution.
    """

    batches: np.ndarray
    negative: np.ndarray
    covered: np.ndarray
    tested: np.ndarray
    nonfinite: np.ndarray
    errors: list[list[np.ndarray]]

    def merge(self, later: Counts, keep: int) -> Counts:
        """Return the counts of both, with the first ``keep`` errors of each kind."""
        return Counts(
            self.batches + later.batches,
            self.negative + later.negative,
            self.covered + later.covered,
            self.tested + later.tested,
            self.nonfinite + later.nonfinite,
            [
                [
                    np.concatenate([a, b[: keep - a.size]]) if b.size and a.size < keep else a
                    for a, b in zip(*rows, strict=True)
                ]
                for rows in zip(self.errors, later.errors, strict=True)
            ],
        )


def _mean_and_variance(terms: np.ndarray) -> tuple[float, float]:
    n = terms.size
    total, squares = loops.sums(terms, 0.0)
    mean = total / n
    if not np.isfinite(
        mean
    ):  # infinite terms have a mean, unless of both signs, and none of them a spread
        return float(np.sum(terms / n)), np.nan
    scatter = squares - total * mean
    if (
        not scatter > 1e-4 * squares
    ):  # what is left after cancellation has lost 4 digits or more: centre first
        total, scatter = loops.sums(terms, mean)
        mean += total / n
    return mean, scatter / (n - 1) if n > 1 else np.nan


class PanelMeter:
    """Measures panels of draws according to a plan.

    Parameters
    ----------
    keep
        How many batch errors to keep of each kind, at all sizes or at each.
    """

    def __init__(self, plan: Plan, keep: int | Sequence[int]) -> None:
        self._plan, self._keep = plan, np.broadcast_to(keep, len(plan.batches))
        sizes, shape = np.array(plan.batches), (len(plan.estimators), len(plan.batches))
        # one sample has no interval
        self._limits = np.where(sizes > 1, stdtrit(np.maximum(sizes - 1, 1), 0.975) ** 2, np.nan)
        self._counts = np.zeros((*shape, 3), dtype=np.int64)
        self._errors = np.empty((*shape, self._keep.max()))
        self._nonfinite = np.zeros(shape[0], dtype=np.int64)
        self._vectors: list[np.ndarray] = []
        self._weights: list[int] = []

    def add(self, draws: Draws, *, diagnose: bool) -> None:
        """Measure one panel, draws of shape ``(n,)``.

        ``diagnose`` adds coverage and the rest that costs more than a mean.
        """
        vector: list[tuple[float, float]] = []
        seen: dict[
            int, tuple[np.ndarray, float, float]
        ] = {}  # estimators that share their terms share their moments
        with np.errstate(all="ignore"):
            for i, estimator in enumerate(self._plan.estimators):
                if estimator.batch is None:
                    terms = np.ascontiguousarray(estimator.formula(draws))
                    if id(terms) not in seen:
                        seen[id(terms)] = terms, *_mean_and_variance(terms)
                    _, mean, variance = seen[id(terms)]
                    vector.append((mean, variance))
                    if not np.isfinite(mean):
                        self._nonfinite[i] += np.count_nonzero(~np.isfinite(terms))
                    if diagnose:
                        self._diagnose(i, terms, mean)
                else:
                    vector.extend(self._batchwise(i, draws, diagnose))
        self._vectors.append(np.array(vector).T.ravel())
        self._weights.append(draws.log_ratio.size)

    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """One row a panel, ``(panels, 2 columns)``: means of all columns, then variances.

        And the panel sizes.
        """
        return np.array(self._vectors), np.array(self._weights, dtype=float)

    @property
    def counts(self) -> Counts:
        """The counts over all batches so far."""
        batches, negative, covered = self._counts.transpose(2, 0, 1).copy()
        truthless = np.isnan(self._plan.truths)[:, None]
        return Counts(
            batches,
            negative,
            covered,
            np.where(truthless | np.isnan(self._limits), 0, batches),
            self._nonfinite,
            [
                [kept[:n].copy() for kept, n in zip(*rows, strict=True)]
                for rows in zip(self._errors, np.minimum(batches, self._keep), strict=True)
            ],
        )

    def _kept(self, i: int, first: int) -> tuple[Any, ...]:
        """The truth of an estimator; limits, counts and errors of its batches from a size on."""
        rows = i, slice(first, None)
        return self._plan.truths[i], self._limits[first:], self._counts[rows], self._errors[rows]

    def _diagnose(self, i: int, terms: np.ndarray, mean: float) -> None:
        sizes, first = self._plan.batches, 0
        if sizes[0] == 1:
            first = 1
            loops.tally(terms, terms, np.array([terms.size]), *self._kept(i, 0))
        layout = folds(terms.size, sizes[first : bisect(sizes, terms.size)])
        center = mean if np.isfinite(mean) else 0.0
        layout.tally_means(terms, center, *self._kept(i, first))

    def _batchwise(self, i: int, draws: Draws, diagnose: bool) -> list[tuple[float, float]]:
        form = self._plan.estimators[i].batch
        assert form is not None
        samples = draws.log_ratio.size
        sizes = [n for n in self._plan.batches if n >= form.min_size]
        layout = folds(samples, tuple(n for n in sizes if 2 * n <= samples), form.folds)
        sums = layout.sums(form.features(draws) + (form.spread_features(draws) if diagnose else ()))
        estimates = form.estimate(sums, layout.size)
        if diagnose:
            variances = form.variance(sums, layout.size)
            first = len(self._plan.batches) - len(sizes)
            loops.tally(estimates, variances, layout.ends, *self._kept(i, first))
        result = []
        for part in layout.parts:
            values = estimates[part]
            mean, variance = _mean_and_variance(values)
            result.append((mean, variance))
            if not np.isfinite(mean):
                self._nonfinite[i] += np.count_nonzero(~np.isfinite(values))
        return result + [(np.nan, np.nan)] * (len(sizes) - len(result))
