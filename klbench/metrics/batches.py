"""What one panel of samples says: means and variances of every estimator, and what batches of each size do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from klbench.types import Draws, Estimator

Array = Any


@dataclass(frozen=True)
class Plan:
    """What to measure on every panel.

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
        """What the panel vectors hold: ``(estimator, batch)``; batch 0 for terms that are independent of each other."""
        return [
            (i, n)
            for i, e in enumerate(self.estimators)
            for n in ((0,) if e.batch is None else (n for n in self.batches if n >= e.batch.min_size))
        ]


@dataclass
class Counts:
    """Counts over batches, one entry an estimator and a batch size, ``(e, b)``; additive.

    ``errors`` keeps the first batch errors of each kind for their distribution, ``(e, b, kept)``, NaN beyond what there is.
    """

    batches: np.ndarray
    negative: np.ndarray
    covered: np.ndarray
    tested: np.ndarray
    nonfinite: np.ndarray
    errors: list[list[np.ndarray]] = field(default_factory=list)

    @classmethod
    def empty(cls, plan: Plan) -> Counts:
        """No batches yet."""
        shape = len(plan.estimators), len(plan.batches)
        batches, negative, covered, tested = (np.zeros(shape, dtype=np.int64) for _ in range(4))
        errors = [[np.empty(0)] * shape[1] for _ in range(shape[0])]
        return cls(batches, negative, covered, tested, np.zeros(shape[0], dtype=np.int64), errors)

    def merge(self, later: Counts, keep: int) -> Counts:
        """Both together, with the first ``keep`` errors of each kind."""
        return Counts(
            self.batches + later.batches,
            self.negative + later.negative,
            self.covered + later.covered,
            self.tested + later.tested,
            self.nonfinite + later.nonfinite,
            [[_first(a, b, keep) for a, b in zip(*rows, strict=True)] for rows in zip(self.errors, later.errors, strict=True)],
        )


def _first(kept: np.ndarray, more: np.ndarray, limit: int) -> np.ndarray:
    return np.concatenate([kept, more[: limit - kept.size]]) if more.size and kept.size < limit else kept


class _Sums:
    """Sums over batches of growing size, each made from the one before; which samples share a batch is left open."""

    def __init__(self, values: Sequence[np.ndarray]) -> None:
        self._values = values  # each (n,)
        self._size, self._sums = 0, np.empty((len(values), 0))

    def over(self, size: int) -> np.ndarray:
        """Sums over batches of ``size`` samples, ``(values, n // size)``; samples that fill no batch are left out."""
        count = self._values[0].size // size
        ratio = size // self._size if self._size and size % self._size == 0 else 0
        if not ratio or self._sums.shape[1] < ratio * count:
            self._sums, ratio = self._first(count, size)
        self._size, self._sums = size, self._fold(self._sums[:, : ratio * count], ratio)
        return self._sums

    def _first(self, count: int, size: int) -> tuple[np.ndarray, int]:
        """The first fold, from separate arrays into one, and what is left to fold: a stack of all would not fit the cache."""
        if size >= 32:  # long enough for sums over consecutive samples to be the faster ones
            return np.stack([np.add.reduce(x[: size * count].reshape(count, size), axis=1) for x in self._values]), 1
        if size % 2:
            return np.stack([np.add.reduce(x[: size * count].reshape(size, count), axis=0) for x in self._values]), 1
        half = size * count // 2
        sums = np.empty((len(self._values), half))
        for x, row in zip(self._values, sums, strict=True):
            np.add(x[:half], x[half : 2 * half], out=row)
        return sums, size // 2

    @staticmethod
    def _fold(x: np.ndarray, ratio: int) -> np.ndarray:
        while ratio % 2 == 0:  # halves onto halves, for speed
            half = x.shape[1] // 2
            x = x[:, :half] + x[:, half:]
            ratio //= 2
        return x if ratio == 1 else np.add.reduce(x.reshape(len(x), ratio, -1), axis=1)


def _mean_and_variance(terms: np.ndarray) -> tuple[float, float]:
    n = terms.size
    total = float(np.add.reduce(terms))
    mean = total / n
    squares = float(np.dot(terms, terms))
    scatter = squares - total * mean
    if not scatter > 1e-4 * squares:  # what is left after cancellation has lost 4 digits or more: centre first
        centered = terms - mean
        mean += float(np.add.reduce(centered)) / n
        scatter = float(np.dot(centered, centered))
    return mean, scatter / (n - 1) if n > 1 else np.nan


def _t_squared(sizes: Sequence[int]) -> list[float]:
    from scipy.special import stdtrit

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
        """Measure one panel, draws of shape ``(n,)``; ``diagnose`` adds coverage and the rest that costs more than a mean."""
        vector: list[tuple[float, float]] = []
        seen: dict[int, tuple[np.ndarray, float, float]] = {}  # estimators that share their terms share their moments
        with np.errstate(all="ignore"):
            for i, estimator in enumerate(self._plan.estimators):
                if estimator.batch is None:
                    terms = estimator.formula(draws)
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
        """One row a panel, ``(panels, 2 columns)``: means of all columns, then variances; and the panel sizes."""
        return np.array(self._vectors), np.array(self._weights, dtype=float)

    def _tally(self, i: int, j: int, estimates: np.ndarray) -> None:
        counts = self.counts
        counts.batches[i, j] += estimates.size
        counts.negative[i, j] += np.count_nonzero(estimates < 0.0)
        counts.errors[i][j] = _first(counts.errors[i][j], estimates - self._plan.truths[i], self._keep)

    def _cover(self, i: int, j: int, errors: np.ndarray, variance_of_mean: np.ndarray) -> None:
        if not np.isnan(self._plan.truths[i]):
            self.counts.tested[i, j] += errors.size
            self.counts.covered[i, j] += np.count_nonzero(errors * errors <= self._t_squared[j] * variance_of_mean)

    def _diagnose(self, i: int, terms: np.ndarray, center: float) -> None:
        centered = terms - center if np.isfinite(center) else terms
        offset = center if np.isfinite(center) else 0.0
        sums = _Sums((centered, centered * centered))
        for j, n in enumerate(self._plan.batches):
            if n > terms.size:
                break
            if n == 1:
                self._tally(i, j, terms)
                continue
            total, squares = sums.over(n)
            mean = total / n
            estimates = mean + offset
            self._tally(i, j, estimates)
            variance_of_mean = (squares - total * mean) / (n * (n - 1))
            self._cover(i, j, estimates - self._plan.truths[i], variance_of_mean)

    def _batchwise(self, i: int, draws: Draws, diagnose: bool) -> list[tuple[float, float]]:
        form = self._plan.estimators[i].batch
        assert form is not None
        features = form.features(draws) + (form.spread_features(draws) if diagnose else ())
        size = draws.log_ratio.size
        sums = _Sums(features)
        result = []
        for j, n in enumerate(self._plan.batches):
            if n < form.min_size:
                continue
            count = size // n
            if count < 2:
                result.append((np.nan, np.nan))
                continue
            if n % form.folds == 0:
                # Fold f of a batch is any other fold-sized batch: they are all independent.
                sizes = np.full(form.folds, n // form.folds)
                folded = sums.over(n // form.folds)[:, : form.folds * count].reshape(-1, form.folds, count)
            else:
                edges = [k * n // form.folds for k in range(form.folds)]
                sizes = np.diff([*edges, n])
                folded = np.stack([np.add.reduceat(x[: n * count].reshape(n, count), edges, axis=0) for x in features])
            estimates = form.estimate(folded, sizes)
            mean, variance = _mean_and_variance(estimates)
            result.append((mean, variance))
            if not np.isfinite(mean):
                self.counts.nonfinite[i] += np.count_nonzero(~np.isfinite(estimates))
            if diagnose:
                self._tally(i, j, estimates)
                if n > 1:
                    self._cover(i, j, estimates - self._plan.truths[i], form.variance(folded, sizes))
        return result
