"""The statistics of one panel of samples.

Means and variances of every estimator, and counts over batches of each size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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

    @property
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

    ``errors`` keeps the first batch errors of each kind for their distribution, ``(e, b, kept)``,
    NaN beyond what there is.
    """

    batches: np.ndarray
    negative: np.ndarray
    covered: np.ndarray
    tested: np.ndarray
    nonfinite: np.ndarray
    errors: list[list[np.ndarray]] = field(default_factory=list)

    @classmethod
    def empty(cls, plan: Plan) -> Counts:
        """Return the counts of no batches."""
        shape = len(plan.estimators), len(plan.batches)
        batches, negative, covered, tested = (np.zeros(shape, dtype=np.int64) for _ in range(4))
        errors = [[np.empty(0)] * shape[1] for _ in range(shape[0])]
        return cls(batches, negative, covered, tested, np.zeros(shape[0], dtype=np.int64), errors)

    def merge(self, later: Counts, keep: int) -> Counts:
        """Return the counts of both, with the first ``keep`` errors of each kind."""
        return Counts(
            self.batches + later.batches,
            self.negative + later.negative,
            self.covered + later.covered,
            self.tested + later.tested,
            self.nonfinite + later.nonfinite,
            [
                [_first(a, b, keep) for a, b in zip(*rows, strict=True)]
                for rows in zip(self.errors, later.errors, strict=True)
            ],
        )


def _first(kept: np.ndarray, more: np.ndarray, limit: int) -> np.ndarray:
    return (
        np.concatenate([kept, more[: limit - kept.size]])
        if more.size and kept.size < limit
        else kept
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


def _t_squared(sizes: Sequence[int]) -> list[float]:
    return [float(stdtrit(n - 1, 0.975) ** 2) if n > 1 else np.nan for n in sizes]


class PanelMeter:
    """Measures panels of draws according to a plan.

    Parameters
    ----------
    keep
        How many batch errors to keep of each kind.
    """

    def __init__(self, plan: Plan, keep: int) -> None:
        self._plan, self._keep = plan, keep
        self._t_squared = _t_squared(plan.batches)
        self.counts = Counts.empty(plan)
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
                        self.counts.nonfinite[i] += np.count_nonzero(~np.isfinite(terms))
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

    def _tally(self, i: int, j: int, estimates: np.ndarray, variances: np.ndarray | None) -> None:
        """Count batches of the j-th size; those of one sample have no variance and no interval."""
        counts, truth = self.counts, self._plan.truths[i]
        counts.batches[i, j] += estimates.size
        if counts.errors[i][j].size < self._keep:
            counts.errors[i][j] = _first(
                counts.errors[i][j], estimates[: self._keep] - truth, self._keep
            )
        if variances is None:
            counts.negative[i, j] += np.count_nonzero(estimates < 0.0)
            return
        negative, covered = loops.tally(estimates, variances, truth, self._t_squared[j])
        counts.negative[i, j] += negative
        if not np.isnan(truth):
            counts.covered[i, j] += covered
            counts.tested[i, j] += estimates.size

    def _diagnose(self, i: int, terms: np.ndarray, mean: float) -> None:
        center = mean if np.isfinite(mean) else 0.0
        sizes = self._plan.batches
        if sizes[0] == 1:
            self._tally(i, 0, terms, None)
        first = int(sizes[0] == 1)
        layout = folds(terms.size, tuple(n for n in sizes[first:] if n <= terms.size))
        centered = terms - center
        total, squares = layout.sums((centered, centered * centered))[:, 0]
        means = total / layout.size
        variances = (squares - total * means) / (layout.size * (layout.size - 1.0))
        means += center
        for j, part in enumerate(layout.parts, first):
            self._tally(i, j, means[part], variances[part])

    def _batchwise(self, i: int, draws: Draws, diagnose: bool) -> list[tuple[float, float]]:
        form = self._plan.estimators[i].batch
        assert form is not None
        samples = draws.log_ratio.size
        sizes = [n for n in self._plan.batches if n >= form.min_size]
        layout = folds(samples, tuple(n for n in sizes if 2 * n <= samples), form.folds)
        sums = layout.sums(form.features(draws) + (form.spread_features(draws) if diagnose else ()))
        estimates = form.estimate(sums, layout.size)
        variances = form.variance(sums, layout.size) if diagnose else None
        result = []
        for j, part in enumerate(layout.parts, len(self._plan.batches) - len(sizes)):
            values = estimates[part]
            mean, variance = _mean_and_variance(values)
            result.append((mean, variance))
            if not np.isfinite(mean):
                self.counts.nonfinite[i] += np.count_nonzero(~np.isfinite(values))
            if variances is not None:
                self._tally(i, j, values, variances[part] if self._plan.batches[j] > 1 else None)
        return result + [(np.nan, np.nan)] * (len(sizes) - len(result))
