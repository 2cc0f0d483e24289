"""Summaries of shards of completions.

Arrays of a fixed size that are merged in order and kept in files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from klbench.studies.lm.arrays import Arrays
from klbench.studies.lm.prompts import Prompts

KEPT_COMPLETIONS = 2**14
KEPT_TOKENS = 2**22
"""Log-ratios are kept, for the shape of their tails, from the first so many completions, or so
many tokens of them.
"""


@dataclass(frozen=True)
class Sums(Arrays):
    """Moments of vectors, one a completion.

    ``count`` of them, ``mean`` ``(d,)``, ``scatter`` ``(d, d)``, and powers ``(d,)``.

    ``cubes`` and ``fourths`` are the sums of third and fourth powers about the mean: they say how
    sure the variances are.
    """

    count: np.ndarray
    mean: np.ndarray
    scatter: np.ndarray
    cubes: np.ndarray
    fourths: np.ndarray

    @classmethod
    def of_vectors(cls, vectors: np.ndarray) -> Sums:
        """Return the moments of ``(n, d)`` vectors, n at least 1."""
        with np.errstate(
            all="ignore"
        ):  # what is not finite spoils its own rows and columns, and is counted elsewhere
            mean = vectors[0] + (vectors - vectors[0]).mean(axis=0)
            centred = vectors - mean
            squares = centred * centred
            return cls(
                np.array(len(vectors)),
                mean,
                centred.T @ centred,
                (squares * centred).sum(axis=0),
                (squares * squares).sum(axis=0),
            )

    def merge(self, later: Sums) -> Sums:
        """Return the moments of both.

        (Chan, Golub and LeVeque 1983; Pebay 2008, eq. 1.6, for the third and fourth powers.)
        """
        a, b = int(self.count), int(later.count)
        n = a + b
        with np.errstate(all="ignore"):
            d = later.mean - self.mean
            m2a, m2b = np.diag(self.scatter), np.diag(later.scatter)
            cubes = (
                self.cubes
                + later.cubes
                + d**3 * (a * b * (a - b) / n**2)
                + 3 * d * (a * m2b - b * m2a) / n
            )
            fourths = (
                self.fourths
                + later.fourths
                + d**4 * (a * b * (a * a - a * b + b * b) / n**3)
                + 6 * d**2 * (a * a * m2b + b * b * m2a) / n**2
                + 4 * d * (a * later.cubes - b * self.cubes) / n
            )
            scatter = self.scatter + later.scatter + np.outer(d, d) * (a * b / n)
            return Sums(np.array(n), self.mean + d * (b / n), scatter, cubes, fourths)

    @property
    def covariance(self) -> np.ndarray:
        """The covariance of one vector, ``(d, d)``; NaN for fewer than two."""
        n = int(self.count)
        return self.scatter / (n - 1) if n > 1 else np.full_like(self.scatter, np.nan)

    @property
    def variance_se(self) -> np.ndarray:
        """Standard errors of the variances, ``(d,)``, from the fourth powers."""
        n = int(self.count)
        if n < 4:
            return np.full_like(self.mean, np.nan)
        with np.errstate(all="ignore"):
            variance = np.diag(self.scatter) / (n - 1)
            return np.sqrt(np.maximum(self.fourths / n - variance**2 * (n - 3) / (n - 1), 0.0) / n)


@dataclass(frozen=True)
class Places(Arrays):
    """Moments at each position, counted among the tokens that count.

    ``count`` ``(T,)``, ``mean`` and ``scatter`` ``(k, T)``.

    ``negative`` counts the tokens with a negative k1, ``largest`` is the largest ``|log r|``.
    """

    count: np.ndarray
    mean: np.ndarray
    scatter: np.ndarray
    negative: np.ndarray
    largest: np.ndarray

    @classmethod
    def of_tokens(cls, position: np.ndarray, values: np.ndarray, log_ratio: np.ndarray) -> Places:
        """Return the moments of ``values`` ``(k, tokens)`` at ``position`` ``(tokens,)``."""
        size = int(position.max(initial=-1)) + 1
        count = np.bincount(position, minlength=size)
        with np.errstate(all="ignore"):
            mean = np.array([np.bincount(position, x, size) for x in values]) / count
            scatter = np.array(
                [
                    np.bincount(position, (x - m[position]) ** 2, size)
                    for x, m in zip(values, mean, strict=True)
                ]
            )
        largest = np.zeros(size)
        np.maximum.at(largest, position, np.abs(log_ratio))
        return cls(
            count, mean, scatter, np.bincount(position[log_ratio > 0.0], minlength=size), largest
        )

    def _padded(self, size: int) -> Places:
        more = size - self.count.size
        return (
            Places(*(np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, more)]) for x in vars(self).values()))
            if more
            else self
        )

    def merge(self, later: Places) -> Places:
        """Return both together."""
        size = max(self.count.size, later.count.size)
        a, b = self._padded(size), later._padded(size)
        n = a.count + b.count
        with np.errstate(all="ignore"):
            share = b.count / n
            step = np.where(b.count > 0, b.mean - a.mean, 0.0)
            mean = np.where(a.count > 0, a.mean + step * share, b.mean)
            scatter = (
                a.scatter + b.scatter + np.where(a.count > 0, step**2 * (a.count * share), 0.0)
            )
        return Places(n, mean, scatter, a.negative + b.negative, np.maximum(a.largest, b.largest))


@dataclass(frozen=True)
class Vocabulary(Arrays):
    """Sums for each token id, ids rising, all ``(ids,)``: draws, k1, its square and the exact KL.

    It grows with the vocabulary, not with samples.
    """

    token: np.ndarray
    count: np.ndarray
    k1: np.ndarray
    k1_squared: np.ndarray
    kl: np.ndarray
    largest: np.ndarray

    @classmethod
    def of_tokens(
        cls, token: np.ndarray, log_ratio: np.ndarray, kl: np.ndarray | None
    ) -> Vocabulary:
        """Return the sums over all tokens of a shard, each argument ``(tokens,)``."""
        ids, which = np.unique(token, return_inverse=True)
        largest = np.zeros(ids.size)
        np.maximum.at(largest, which, np.abs(log_ratio))
        kl = np.zeros_like(log_ratio) if kl is None else kl
        k1, squares, exact = (
            np.bincount(which, x, ids.size) for x in (-log_ratio, log_ratio**2, kl)
        )
        return cls(ids, np.bincount(which, minlength=ids.size), k1, squares, exact, largest)

    def merge(self, later: Vocabulary) -> Vocabulary:
        """Return both together."""
        ids = np.union1d(self.token, later.token)
        parts: dict[str, Any] = {"token": ids}
        for name in ("count", "k1", "k1_squared", "kl", "largest"):
            total = np.zeros(ids.size, dtype=getattr(self, name).dtype)
            for each in (self, later):
                at, x = np.searchsorted(ids, each.token), getattr(each, name)
                total[at] = np.maximum(total[at], x) if name == "largest" else total[at] + x
            parts[name] = total
        return Vocabulary(**parts)


@dataclass(frozen=True)
class Kept(Arrays):
    """Log-ratios and log-weights of the first completions.

    Of each token with its position, and of each whole sequence.

    Without log-weights, those arrays are empty. ``full``: nothing more is taken.
    """

    position: np.ndarray
    token_ratio: np.ndarray
    token_weight: np.ndarray
    sequence_ratio: np.ndarray
    sequence_weight: np.ndarray
    full: np.ndarray

    def merge(self, later: Kept) -> Kept:
        """Return both together, or these alone where they are enough."""
        if self.full:
            return self
        names = [each.name for each in fields(self)[:-1]]
        parts: dict[str, Any] = {
            name: np.concatenate([getattr(self, name), getattr(later, name)]) for name in names
        }
        return Kept(
            **parts, full=Kept.enough(parts["sequence_ratio"].size, parts["token_ratio"].size)
        )

    @staticmethod
    def enough(completions: int, tokens: int) -> np.ndarray:
        """Return whether so many completions and tokens are enough."""
        return np.array(completions >= KEPT_COMPLETIONS or tokens >= KEPT_TOKENS)


@dataclass(frozen=True)
class Tallies(Arrays):
    """Counts of terms: those below zero, all, and those that are not finite, ``(4 estimators,)``
    each.

    For each estimator there are four: its token terms, their sums over completions, and its
    sequence terms twice over.
    """

    negative: np.ndarray
    terms: np.ndarray
    nonfinite: np.ndarray


@dataclass(frozen=True)
class Clock(Arrays):
    """Seconds: of making the completions, and of each estimator's token and sequence terms
    ``(estimators,)``; peak MiB.

    ``stages`` ``(2,)`` are the seconds of generation and of scoring, NaN where nobody says.
    """

    greatest = ("peak",)
    completions: np.ndarray
    stages: np.ndarray
    estimators: np.ndarray
    peak: np.ndarray


@dataclass(frozen=True)
class Found:
    """The summary of one or more shards of a pair.

    ``columns`` names the entries of the vectors in ``sums``.

    The vectors in ``checks`` and ``logged`` are apart from these, so that no estimator's bits
    depend on them.
    """

    columns: tuple[str, ...]
    sums: Sums
    places: Places
    vocabulary: Vocabulary | None
    kept: Kept
    tallies: Tallies
    clock: Clock
    checks: Sums
    prompts: Prompts | None = None
    logged: Sums | None = None

    def merge(self, later: Found) -> Found:
        """Return both together; the order matters to the last bit."""
        return Found(
            self.columns,
            self.sums.merge(later.sums),
            self.places.merge(later.places),
            None
            if self.vocabulary is None or later.vocabulary is None
            else self.vocabulary.merge(later.vocabulary),
            self.kept.merge(later.kept),
            self.tallies.merge(later.tallies),
            self.clock.merge(later.clock),
            self.checks.merge(later.checks),
            None
            if self.prompts is None or later.prompts is None
            else self.prompts.merge(later.prompts),
            None
            if self.logged is None or later.logged is None
            else self.logged.merge(later.logged),
        )

    def flat(self) -> dict[str, np.ndarray]:
        """Return all parts as arrays by name."""
        result = {"columns": np.array(self.columns)}
        for each in fields(self)[1:]:
            part = getattr(self, each.name)
            result |= part.flat(each.name) if part is not None else {}
        return result

    @classmethod
    def restored(cls, stored: Mapping[str, np.ndarray]) -> Found:
        """Return the summary that :meth:`flat` took apart."""
        kinds: dict[str, type[Arrays]] = {
            "sums": Sums,
            "places": Places,
            "vocabulary": Vocabulary,
            "kept": Kept,
            "tallies": Tallies,
            "clock": Clock,
            "checks": Sums,
            "prompts": Prompts,
            "logged": Sums,
        }
        present = {name.partition(".")[0] for name in stored}
        parts: dict[str, Any] = {
            name: kind.of(stored, name) if name in present else None for name, kind in kinds.items()
        }
        return cls(columns=tuple(map(str, stored["columns"])), **parts)
