"""Sums over a log-ratio of two columns, merged over batches and files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from klbench.numerics import expm1_and_gap

BUCKETS = 2**12
"""Rollouts, or all rollouts of a prompt, share one of so many sums. Buckets are independent of
each other, so that a standard error from their spread is right however large the file is.
"""
LIMIT = 300.0
"""Log-ratios beyond are cut to it in the sums, lest squares of their exponentials overflow; they
are counted.
"""
FIELDS = (
    "rollouts",
    "n",
    "x",
    "excess",
    "gap",
    "x2",
    "r2",
    "size",
    "w",
    "w2",
    "x2_rollout",
    "truncated",
    "truncated_weight",
    "iced",
    "iced_weight",
    "masked",
    "masked_weight",
    "capped",
    "capped_weight",
)
"""Columns of the sums. Of tokens: their number, ``x = log r``, ``r - 1``, ``r - 1 - x``, ``x^2``,
``r^2``, ``|x|``. Of rollouts: ``w``, the product of r, its square, and the square of the sum
of x. Then what usual corrections touch, and the weight that is left: tokens cut at 2, tokens
outside of .5 to 5 left out, rollouts above 3 left out, rollouts cut at 2.
"""
AT = {name: i for i, name in enumerate(FIELDS)}
CUT, ICE, MASK = 2.0, (0.5, 5.0), 3.0
"""The defaults of verl's truncation, of IcePop, and of TRL's ``sequence_mask``."""


@dataclass(frozen=True)
class Place:
    """A token or a rollout that stands out, and its size."""

    size: float = 0.0
    value: float = 0.0
    file: str = ""
    row: int = -1
    position: int = -1
    token: int = -1
    text: str = ""


def larger(one: Place, other: Place) -> Place:
    """Return the one of greater size, the first of equal ones."""
    return other if other.size > one.size else one


@dataclass
class Series:
    """The sums of one log-ratio.

    Parameters
    ----------
    rollouts, prompts
        ``(BUCKETS, fields)`` by number of the rollout, and by prompt.
    without
        Tokens where one of the two is missing; where only the ratio's numerator, or denominator,
        is a probability of 0.
    cut
        Tokens beyond ``LIMIT``.
    places
        The token of the largest ``|x|`` and of the largest ``r - 1 - x``, and the rollouts of the
        largest sums of them.
    """

    rollouts: np.ndarray = field(default_factory=lambda: np.zeros((BUCKETS, len(FIELDS))))
    prompts: np.ndarray = field(default_factory=lambda: np.zeros((BUCKETS, len(FIELDS))))
    without: int = 0
    zero_above: int = 0
    zero_below: int = 0
    cut: int = 0
    places: dict[str, Place] = field(default_factory=dict)

    def merge(self, later: Series) -> None:
        """Take in another's sums."""
        self.rollouts += later.rollouts
        self.prompts += later.prompts
        for name in ("without", "zero_above", "zero_below", "cut"):
            setattr(self, name, getattr(self, name) + getattr(later, name))
        for key, place in later.places.items():
            self.places[key] = larger(self.places.get(key, Place()), place)

    @property
    def totals(self) -> np.ndarray:
        """Return the sums over all."""
        total: np.ndarray = self.rollouts.sum(axis=0)
        return total

    def of(self, name: str) -> float:
        """Return one sum over all."""
        return float(self.rollouts[:, AT[name]].sum())


@dataclass(frozen=True)
class Tokens:
    """The counted tokens of a batch: the rollout and the place of each."""

    row: np.ndarray
    position: np.ndarray
    at: np.ndarray
    batch: Any

    @classmethod
    def of(cls, batch: Any) -> Tokens:
        """Return those of a batch; positions are counted among those that count."""
        row = np.repeat(np.arange(batch.offsets.size - 1), np.diff(batch.offsets))
        at = np.flatnonzero(batch.mask)
        row = row[at]
        counts = np.bincount(row, minlength=batch.offsets.size - 1)
        position = np.arange(at.size) - np.repeat(np.cumsum(counts) - counts, counts)
        return cls(row, position, at, batch)

    def place(self, k: int, size: float, value: float) -> Place:
        """Return the place of the k-th counted token."""
        batch, at = self.batch, int(self.at[k])
        return Place(
            size,
            value,
            batch.file,
            int(batch.where[self.row[k]]),
            int(self.position[k]),
            -1 if batch.tokens is None else int(batch.tokens[at]),
            "" if batch.texts is None else batch.texts[at],
        )


def add(
    series: Series,
    tokens: Tokens,
    above: np.ndarray,
    below: np.ndarray,
    bucket: np.ndarray,
    prompt: np.ndarray,
) -> None:
    """Add a batch: numerator and denominator of its counted tokens, and rollouts' buckets."""
    with np.errstate(invalid="ignore"):
        x = above - below
    series.without += int(np.isnan(above).sum() + (np.isnan(below) & ~np.isnan(above)).sum())
    series.zero_above += int(np.sum((above == -np.inf) & np.isfinite(below)))
    series.zero_below += int(np.sum(below == -np.inf))
    kept = np.isfinite(x)
    if not kept.any():
        return
    index = np.flatnonzero(kept)
    x, row, n = x[index], tokens.row[index], bucket.size
    if (far := np.abs(x) > LIMIT).any():
        series.cut += int(far.sum())
        x = np.clip(x, -LIMIT, LIMIT)
    excess, gap = expm1_and_gap(x)
    r, size = excess + 1.0, np.abs(x)
    inside = (r >= ICE[0]) & (r <= ICE[1])
    sums = {
        "n": None,
        "x": x,
        "excess": excess,
        "gap": gap,
        "x2": x * x,
        "r2": r * r,
        "size": size,
        "truncated": r > CUT,
        "truncated_weight": np.minimum(r, CUT),
        "iced": ~inside,
        "iced_weight": r * inside,
    }
    found = np.zeros((n, len(FIELDS)))
    for name, values in sums.items():
        found[:, AT[name]] = np.bincount(row, values, minlength=n)
    present = found[:, AT["n"]] > 0
    total = np.clip(found[:, AT["x"]], -LIMIT, LIMIT)
    w = np.exp(total)
    for name, values in {
        "rollouts": np.ones(n),
        "w": w,
        "w2": w * w,
        "x2_rollout": total * total,
        "masked": w > MASK,
        "masked_weight": w * (w <= MASK),
        "capped": w > CUT,
        "capped_weight": np.minimum(w, CUT),
    }.items():
        found[:, AT[name]] = values * present
    for table, where in ((series.rollouts, bucket), (series.prompts, prompt)):
        for k in range(len(FIELDS)):
            table[:, k] += np.bincount(where, found[:, k], minlength=len(table))
    _extremes(series, tokens, index, x, size, gap, found)


def _extremes(
    series: Series,
    tokens: Tokens,
    index: np.ndarray,
    x: np.ndarray,
    size: np.ndarray,
    gap: np.ndarray,
    found: np.ndarray,
) -> None:
    for key, values in (("size", size), ("gap", gap)):
        k = int(np.argmax(values))
        place = tokens.place(int(index[k]), float(values[k]), float(x[k]))
        series.places[key] = larger(series.places.get(key, Place()), place)
    batch = tokens.batch
    for key in ("size", "gap"):
        sums = found[:, AT[key]]
        k = int(np.argmax(sums))
        place = Place(float(sums[k]), float(found[k, AT["x"]]), batch.file, int(batch.where[k]))
        name = f"rollout_{key}"
        series.places[name] = larger(series.places.get(name, Place()), place)
    k, row = int(np.argmax(x)), int(np.argmax(found[:, AT["x"]]))
    highest = {
        "above": tokens.place(int(index[k]), float(x[k]), float(x[k])),
        "rollout_above": Place(
            float(found[row, AT["x"]]),
            float(found[row, AT["x"]]),
            batch.file,
            int(batch.where[row]),
        ),
    }
    for name, place in highest.items():
        series.places[name] = larger(series.places.get(name, Place()), place)
