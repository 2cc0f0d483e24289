"""Statistics over seeds.

Means, differences and shares of the same seeds, each with a 95 % interval; who diverged is in none.

A replica is one arm (a combination, a loss, a weight) trained on one seed.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy
from scipy.special import ndtr, stdtrit

from klbench import streams

Z95 = 1.959963984540054
"""Standard errors of a 95 % interval where a mean has many terms."""
RESAMPLES = 9_999
FEW = 8
"""The least number of values whose resampled means range as far as an interval has to."""
BAND = (0.1, 0.9)
"""Quantiles over seeds between which a curve's band lies."""

Values = np.ndarray | pd.Series
"""Numbers, a seed each."""


def interval(values: np.ndarray, *names: str | int) -> tuple[float, float]:
    """A 95 % interval of the mean over seeds.

    Bias-corrected, accelerated bootstrap, of a level raised for their number.

    Resampling n values spreads by 1/n where the variance wants 1/(n-1), and by the normal
    distribution where Student's t is due: at the level ``2 Phi(sqrt(n/(n-1)) t(0.975, n-1)) - 1``
    it is as wide as the t interval, where values are normal, and leans to where they are skewed
    (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", on the expanded percentile
    interval; Efron 1987). Below 8 values resamples range less far, and the interval is Student's t.
    By simulation it covers a normal mean in 95.0 % with 4 values, 93.8 % with 8 and 94.9 % with 16,
    an exponential one in 88 %, 91 % and 93 %. It may pass a bound that the values have. NaN: of one
    value, or of any that is not finite.
    """
    n = len(values)
    if n < 2 or not np.isfinite(values).all():
        return math.nan, math.nan
    if np.ptp(values) <= 1e-12 * np.abs(values).max():  # nothing to resample
        return float(values.mean()), float(values.mean())
    quantile = float(stdtrit(n - 1, 0.975))
    if n < FEW:
        half = quantile * float(values.std(ddof=1)) / math.sqrt(n)
        return float(values.mean()) - half, float(values.mean()) + half
    level = 2.0 * float(ndtr(math.sqrt(n / (n - 1)) * quantile)) - 1.0
    found = scipy.stats.bootstrap(  # loaded here: it takes half a second
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=level,
        method="BCa",
        rng=streams.generator(0, "bootstrap", *names),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def mean(values: Values) -> float:
    """Return the mean; NaN of nothing, as where all seeds diverged."""
    values = np.asarray(values)  # pandas would leave out what is not a number
    with np.errstate(invalid="ignore"):  # of inf and -inf together
        return float(values.mean()) if len(values) else math.nan


def summary(name: str, values: Values, *names: str | int) -> dict[str, float]:
    """Return mean and interval under ``name``, ``name_low`` and ``name_high``."""
    low, high = interval(np.asarray(values), name, *names)
    return {name: mean(values), f"{name}_low": low, f"{name}_high": high}


@dataclass(frozen=True, eq=False)
class SeedFrame:
    """Rows by seed, of which those of replicas that diverged are dropped here (:meth:`of`) and
    nowhere else.

    A replica that diverged stays where it was stopped, which is no result of training.

    Parameters
    ----------
    every
        All rows, with the number of the seed under ``seed``.
    before
        Rows up to where a replica diverged: for curves.
    kept
        Rows of replicas that did not diverge: for all other statistics.
    """

    every: pd.DataFrame
    before: pd.DataFrame
    kept: pd.DataFrame

    @classmethod
    def of(cls, table: pd.DataFrame, *arm: str) -> SeedFrame:
        """Drop what diverged.

        Columns ``arm`` and ``seed`` name a replica, its ``status`` is ``ok`` until it diverged.

        Without a column ``status`` none did.
        """
        table = table.reset_index(drop=True)
        if "status" not in table:
            return cls(table, table, table)
        sound = table["status"] == "ok"
        kept = (
            sound.groupby([table[column] for column in (*arm, "seed")], dropna=False)
            .transform("all")
            .astype(bool)
        )
        return cls(table, table[sound], table[kept])

    def part(self, rows: pd.DataFrame) -> SeedFrame:
        """Return the same of some of the rows."""
        return SeedFrame(
            rows, *(each[each.index.isin(rows.index)] for each in (self.before, self.kept))
        )

    def where(self, **values: Hashable) -> SeedFrame:
        """Return the rows that have these values in these columns."""
        rows = self.every
        for column, value in values.items():
            rows = rows[rows[column] == value]
        return self.part(rows)

    def groups(self, by: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], SeedFrame]]:
        """Yield values of the columns ``by`` and the rows that have them, those of which no
        replica was kept too.
        """
        for key, rows in self.every.groupby(list(by), sort=False, dropna=False):
            yield key, self.part(rows)

    @property
    def counts(self) -> dict[str, int]:
        """Return how many ``seeds`` did not diverge and, where there is a status, how many
        ``diverged``, of one arm.
        """
        seeds = self.kept["seed"].nunique()
        return {"seeds": seeds} | (
            {"diverged": self.every["seed"].nunique() - seeds} if "status" in self.every else {}
        )

    def last(self, column: str) -> pd.Series[float]:
        """Return a column after the last step by seed, of the replicas of one arm that did not
        diverge.
        """
        return by_seed(self.kept[self.kept["step"] == self.every["step"].max()], column)

    def first(self, column: str) -> pd.Series[float]:
        """Return a column before the first step by seed, of all replicas of one arm."""
        return by_seed(self.every[self.every["step"] == 0], column)


def by_seed(rows: pd.DataFrame, column: str) -> pd.Series[float]:
    """Return a column of rows that have a seed each, indexed by the seed and in its order."""
    return rows.set_index("seed")[column].astype(float).sort_index()


def summarised(
    frame: SeedFrame,
    by: Sequence[str],
    columns: Sequence[str],
    *,
    carried: Sequence[str] = (),
    plain: Sequence[str] = (),
) -> pd.DataFrame:
    """Return one row a group.

    Its key, what is ``carried`` (the same in all its rows), its counts, means with intervals.

    The means of columns that are ``plain`` have none.

    Raises
    ------
    ValueError
        A seed has several rows in a group.
    """
    rows = []
    for key, group in frame.groups(by):
        kept = group.kept.sort_values("seed")
        if kept["seed"].duplicated().any():
            raise ValueError(
                f"statistics over seeds need one row a seed, got {len(kept)} for"
                f" {group.counts['seeds']} at {key}"
            )
        row = (
            dict(zip(by, key, strict=True))
            | {column: group.every[column].iloc[0] for column in carried}
            | group.counts
        )
        for column in columns:
            values = kept[column].to_numpy(dtype=float)
            row |= (
                {column: mean(values)}
                if column in plain
                else summary(column, values, *map(str, key))
            )
        rows.append(row)
    return pd.DataFrame(rows)


def band(
    frame: SeedFrame,
    by: Sequence[str],
    columns: Sequence[str],
    quantiles: tuple[float, float] = BAND,
) -> pd.DataFrame:
    """Return one row a group.

    Its key, ``seeds``, means, and the ``quantiles`` under ``_low`` and ``_high``.

    Over replicas that had not diverged by then. The quantiles are NaN where a value is not finite.
    """
    rows = []
    for key, group in frame.before.groupby(list(by), sort=False):
        row = dict(zip(by, key, strict=True)) | {"seeds": len(group)}
        for column in columns:
            values = group[column].to_numpy(dtype=float)
            low, high = (
                np.quantile(values, quantiles)
                if np.isfinite(values).all()
                else (math.nan, math.nan)
            )
            row |= {column: mean(values), f"{column}_low": low, f"{column}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def at_kl(
    path: pd.DataFrame, column: str, wanted: np.ndarray | float, start: float = 0.0
) -> np.ndarray:
    """Return a column of one seed's path where its ``kl`` is as ``wanted``, by interpolation in
    sqrt(KL) between its points.

    The reference is a point of every path: KL 0, where the column has the value ``start``. NaN
    beyond the largest KL.
    """
    path = path.sort_values("kl")
    # An exact KL of 0 may come out as -1e-17.
    x = np.sqrt(np.concatenate([[0.0], path["kl"].clip(lower=0.0)]))
    at = np.sqrt(wanted)
    return np.where(
        at <= x[-1], np.interp(at, x, np.concatenate([[start], path[column]])), math.nan
    )


def differences(values: pd.Series[float], others: pd.Series[float]) -> np.ndarray:
    """Return ``values - others`` of the seeds for which both are known (not NaN), in the seeds'
    order; indexed by the seed.

    NaN where both are the same infinity.
    """
    both = values.sort_index().to_frame("value").join(others.rename("other"), how="inner").dropna()
    found: np.ndarray = (both["value"] - both["other"]).to_numpy(dtype=float)
    return found


def paired(
    name: str, values: pd.Series[float], others: pd.Series[float], *names: str | int
) -> dict[str, float]:
    """Return the mean of ``values - others`` seed by seed, its interval, and under ``name_seeds``
    how many seeds both have.

    What is said of an arm against its start, a floor or another arm follows from this: draws of
    reference, reward and samples move both alike, so that two means which differ less than either
    of them varies may yet be told apart, or the reverse.
    """
    found = differences(values, others)
    return summary(name, found, *names) | {f"{name}_seeds": len(found)}


def effect(values: pd.Series[float], others: pd.Series[float]) -> float:
    """Return mean over standard deviation of the paired differences (Cohen's d_z).

    NaN of fewer than 2 that are finite.
    """
    found = differences(values, others)
    spread = float(found.std(ddof=1)) if len(found) > 1 and np.isfinite(found).all() else math.nan
    return mean(found) / spread if spread > 0 else math.nan


def share(
    name: str, part: pd.Series[float], whole: pd.Series[float], *names: str | int
) -> dict[str, float]:
    """Return ``mean(part) / mean(whole)`` over the seeds that both have, with an interval, and
    ``name_seeds``.

    The interval is that of the mean of ``s + (part - s whole) / mean(whole)``, ``s`` being the
    share: to first order in how far the means stray, what the ratio is. NaN where the mean whole is
    0. (Cochran 1977, "Sampling techniques", section 6.3.)
    """
    both = part.sort_index().to_frame("part").join(whole.rename("whole"), how="inner").dropna()
    top, bottom = both["part"].to_numpy(dtype=float), both["whole"].to_numpy(dtype=float)
    base = mean(bottom)
    values = np.full(1, math.nan)
    if base:
        found = mean(top) / base
        with np.errstate(invalid="ignore"):  # where one is infinite
            values = found + (top - found * bottom) / base
    return summary(name, values, *names) | {f"{name}_seeds": len(both)}


Side = Literal[-1, 0, 1]


def side(row: Mapping[str, Any], name: str, of: float = 0.0) -> Side | None:
    """Return the side of ``of`` on which the whole interval of ``name`` lies, -1 or 1.

    0 for both; None without an interval.
    """
    low, high = (row.get(f"{name}_{end}", math.nan) for end in ("low", "high"))
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    return 1 if low > of else -1 if high < of else 0


def verdict(
    row: Mapping[str, Any], name: str, below: str, between: str, above: str, of: float = 0.0
) -> str:
    """Return the word for that side, or that there are too few seeds."""
    words: dict[Side | None, str] = {-1: below, 0: between, 1: above}
    return words.get(side(row, name, of), "too few seeds to tell")


def outcome(row: Mapping[str, Any], otherwise: str) -> str:
    """Return on which seeds replicas ``diverged``, by the row's counts.

    ``otherwise`` where none did.
    """
    if not row["diverged"]:
        return otherwise
    return "diverged on some seeds" if row["seeds"] else "diverged on all seeds"
