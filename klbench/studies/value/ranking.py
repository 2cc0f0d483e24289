"""The estimators ranked by their error, and their claims held against what was measured.

All from the study's other tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from klbench.metrics.seeds import Z95
from klbench.rows import Rows, column_of, grouped, keyed
from klbench.schema import records
from klbench.studies.value.columns import (
    ALL,
    DIFFERENCES,
    ESTIMATORS,
    FEW_SAMPLES,
    MAIN_TARGET,
    PAIRS,
    RANGES,
    TWO,
    UNBIASED,
    VALUES,
    plainness,
)

SAME = 1e-9
"""Errors that differ by a smaller fraction are the same numbers by another name."""
LEVEL = 0.005
"""Errors that differ by a smaller fraction make no difference to anyone, however certain the
difference is.
"""
SKEWED = 1.0 / 3.0
"""Tail index from which a ratio has no third moment.

A mean over few samples is off there by more than its s.e. says.
"""
LARGE_Z = 5.0
"""Standard errors beyond which a deviation is no accident, over as many rows as a run has."""

Tables = Mapping[str, pd.DataFrame]
Row = Mapping[str, Any]


def complete(tables: Tables) -> Tables:
    """Return tables of an earlier version with what follows from them.

    Tables that are not as declared as they are.
    """
    needed = (VALUES, DIFFERENCES, PAIRS, ESTIMATORS)
    whole = all(
        schema.table in tables and not schema.missing(tables[schema.table]) for schema in needed
    )
    return ranked(tables) if whole else tables


def ranked(tables: Tables) -> dict[str, pd.DataFrame]:
    """Return the tables with the errors that rank, the ranges of KL with their winners, and the
    verdicts on the claims.
    """
    values = with_errors(tables["values"])
    ranking = Ranking(values, tables["differences"], tables["pairs"], tables["estimators"])
    ranges = RANGES.frame(ranking.ranges())
    return {
        **tables,
        "values": values,
        "estimators": judged(values, tables["pairs"], tables["estimators"]),
        "ranges": ranges,
    }


def with_errors(values: pd.DataFrame) -> pd.DataFrame:
    """Return the values with the rmse that ranks each row, and whether bias makes most of it."""
    bias, std, exact_bias, exact_std, rmse = (
        values[name].astype(float) for name in ("bias", "std", "exact_bias", "exact_std", "rmse")
    )
    exact, ok = (exact_bias**2 + exact_std**2) ** 0.5, values["status"] == "ok"
    known = (exact < math.inf) & (ok | (values["status"] == "heavy tail"))
    return values.assign(
        error=exact.where(known, rmse.where(ok)),
        error_exact=known,
        bias_dominates=ok & (bias.abs() > std),
    )


@dataclass(frozen=True)
class Contest:
    """The estimators ranked on one pair at one batch size.

    Parameters
    ----------
    errors
        The rmse of each, in nats.
    first
        The one to name: of those within ``LEVEL`` of the least an unbiased and plain one.
    level
        Those that are within ``LEVEL`` of the least, or that the samples cannot tell from the
        first.
    unranked
        Those that measured less, and are not ranked since their tail is heavy and their exact error
        unknown.
    """

    pair: str
    errors: Mapping[str, float]
    first: str
    level: frozenset[str]
    unranked: Sequence[str]

    def same(self, a: str, b: str) -> bool:
        """Tell whether two have the same error, to the last digits."""
        return abs(self.errors[a] - self.errors[b]) <= SAME * max(self.errors[a], self.errors[b])

    def next(self, winner: str) -> str | None:
        """Return the next best: of those not level with the best, if there are any."""
        others = [name for name in self.errors if not self.same(name, winner)]
        clear = [name for name in others if name not in self.level] or others
        return min(clear, key=lambda name: (self.errors[name], plainness(name)), default=None)


def winner(contests: Sequence[Contest]) -> str:
    """Return the one that is level with the least in all of them, and the first in the most."""
    shared = frozenset.intersection(*(each.level for each in contests))
    leads = {name: sum(each.same(name, each.first) for each in contests) for name in shared}
    return min(shared, key=lambda name: (-leads[name], plainness(name)))


@dataclass(frozen=True, eq=False)
class Ranking:
    """The tables that estimators are ranked by."""

    values: pd.DataFrame
    differences: pd.DataFrame
    pairs: pd.DataFrame
    estimators: pd.DataFrame

    @cached_property
    def target(self) -> str:
        """``KL(q‖p)``, or what most rows estimate in a run without it."""
        targets = self._measured["target"]
        return (
            MAIN_TARGET
            if targets.empty or (targets == MAIN_TARGET).any()
            else str(targets.mode()[0])
        )

    @cached_property
    def _measured(self) -> pd.DataFrame:
        return self.values[~self.values["status"].str.startswith("skipped")]

    @cached_property
    def _rows(self) -> dict[tuple[str, int], dict[str, Row]]:
        rows = grouped(
            records(self._measured[self._measured["target"] == self.target]), "pair", "batch"
        )
        return {key: keyed(found, "estimator") for key, found in rows.items()}

    @cached_property
    def _differences(self) -> dict[tuple[str, int, str, str], tuple[float, float]]:
        names = ("pair", "batch", "first", "second", "rmse_difference", "rmse_difference_se")
        rows = zip(*(self.differences[name] for name in names), strict=True)
        return {
            (pair, int(batch), first, second): (float(d), float(se))
            for pair, batch, first, second, d, se in rows
        }

    @cached_property
    def _off_policy(self) -> frozenset[str]:
        return _flagged(self.pairs, "pair", "off_policy")

    @cached_property
    def _unbiased(self) -> frozenset[str]:
        return _flagged(self.estimators, "estimator", "unbiased_claim")

    @cached_property
    def _weighted(self) -> frozenset[str]:
        return _flagged(self.estimators, "estimator", "needs_weight")

    def difference(
        self, pair: str, batch: int, first: str, second: str
    ) -> tuple[float, float] | None:
        """Return error(first) - error(second) and its standard error: 0 where both are exact.

        None where it is not known.

        Of two measured ones on the same samples, as the table of differences has it.
        """
        rows = [self._rows[pair, batch][name] for name in (first, second)]
        if any(column_of(rows, "error_exact")):
            unsure = [float(row["rmse_se"]) for row in rows if not row["error_exact"]]
            return float(rows[0]["error"]) - float(rows[1]["error"]), math.hypot(
                *unsure
            ) if unsure else 0.0
        if (pair, batch, first, second) in self._differences:
            return self._differences[pair, batch, first, second]
        found = self._differences.get((pair, batch, second, first))
        return None if found is None else (-found[0], found[1])

    def _contenders(self, pair: str, batch: int, among: str) -> dict[str, Row]:
        rows = self._rows.get((pair, batch), {})
        if among == TWO:
            both = {"k1", "k3"} <= set(rows) and pair not in self._off_policy
            return {name: rows[name] for name in ("k1", "k3")} if both else {}
        if among == UNBIASED:
            claim = (
                self._unbiased & self._weighted
                if pair in self._off_policy
                else self._unbiased - self._weighted
            )
            return {name: row for name, row in rows.items() if name in claim}
        return rows

    def contest(self, pair: str, batch: int, among: str) -> Contest | None:
        """Return the ranking of a group of estimators.

        None where none of them has an error to rank by.
        """
        rows = self._contenders(pair, batch, among)
        errors = {
            name: float(row["error"]) for name, row in rows.items() if math.isfinite(row["error"])
        }
        if not errors:
            return None
        least = min(errors.values())
        level = {name for name in errors if errors[name] <= least * (1 + LEVEL)}
        first = min(level, key=lambda name: (name not in self._unbiased, plainness(name)))
        for name in errors:
            found = self.difference(pair, batch, name, first)
            if found is not None and abs(found[0]) <= Z95 * found[1]:
                level.add(name)
        heavy = [
            name
            for name, row in rows.items()
            if math.isnan(row["error"]) and row["status"] == "heavy tail"
        ]
        unranked = [name for name in heavy if rows[name]["rmse"] < errors[first]]
        return Contest(pair, errors, first, frozenset(level), unranked)

    def stretches(self, pairs: Sequence[str], batch: int, among: str) -> list[list[Contest]]:
        """Return pairs in their order, cut into as few stretches as have one winner throughout."""
        found: list[list[Contest]] = []
        for pair in pairs:
            each = self.contest(pair, batch, among)
            if each is not None and found and winner(found[-1]) in each.level:
                found[-1].append(each)
            elif each is not None:
                found.append([each])
        return found

    def ranges(self) -> Rows:
        """Return the rows of the table of ranges: each series by rising KL, at each batch size."""
        kl = dict(zip(self.pairs["pair"], self.pairs["kl_qp"].astype(float), strict=True))
        rows: Rows = []
        for series, values in self.values.groupby("series", sort=False):
            pairs = sorted(
                values["pair"].unique(), key=lambda pair: (not math.isfinite(kl[pair]), kl[pair])
            )
            for batch in sorted(int(size) for size in values["batch"].unique()):
                for among in (ALL, UNBIASED, TWO):
                    for stretch in self.stretches(pairs, batch, among):
                        kls = [kl[each.pair] for each in stretch]
                        rows.append(
                            {
                                "series": series,
                                "target": self.target,
                                "batch": batch,
                                "among": among,
                                "pairs": len(kls),
                                "kl_low": min(kls),
                                "kl_high": max(kls),
                                **self._range(stretch, batch),
                            }
                        )
        return rows

    def _range(self, stretch: Sequence[Contest], batch: int) -> Row:
        first, middle = winner(stretch), stretch[(len(stretch) - 1) // 2]
        rival = middle.next(first)
        behind = self.difference(middle.pair, batch, rival, first) if rival else None
        return {
            "estimator": first,
            "pair": middle.pair,
            "error": middle.errors[first],
            "next": rival or "",
            "next_error": middle.errors[rival] if rival else math.nan,
            "behind": behind[0] if behind else math.nan,
            "behind_se": behind[1] if behind else math.nan,
            "unranked": ", ".join(
                dict.fromkeys(name for each in stretch for name in each.unranked)
            ),
        }


def _flagged(table: pd.DataFrame, name: str, flag: str) -> frozenset[str]:
    """Return the names in the rows where a flag is set."""
    return frozenset(table[name][table[flag].astype(bool)])


def judged(values: pd.DataFrame, pairs: pd.DataFrame, estimators: pd.DataFrame) -> pd.DataFrame:
    """Return the estimators with the verdicts on their claims.

    To be unbiased is judged on rows that can be trusted: unweighted estimators on samples of q,
    weighted ones on those of a third distribution. Left out are too few samples, pairs whose ratio
    has no third moment, and those whose p reaches beyond q: claims are for a ratio whose mean is 1.
    Where the samples are known to have missed some of the noise, estimators whose own noise is not
    known are left out too.
    """
    tail = pairs[["tail_index", "khat"]].astype(float).max(axis=1)
    fit = pairs["pair"][(tail < SKEWED) & ~(pairs["unreached"].astype(float) > 0)]
    off_policy = pairs["pair"][pairs["off_policy"].astype(bool)]
    ok = values[values["status"] == "ok"]
    missed = values["pair"][values["std_z"].astype(float) < -LARGE_Z]
    ok = ok[ok["exact_std"].notna() | ~ok["pair"].isin(missed)]
    z = (
        (ok["bias"] / ok["bias_se"])
        .astype(float)
        .abs()
        .where((ok["bias_se"] > 0) & (ok["samples"] >= FEW_SAMPLES))
    )
    testable = ok.assign(z=z, weighted=ok["pair"].isin(off_policy))[ok["pair"].isin(fit)].dropna(
        subset="z"
    )
    found = []
    for row in records(estimators):
        name = row["estimator"]
        rows = testable[
            (testable["estimator"] == name) & (testable["weighted"] == bool(row["needs_weight"]))
        ]
        row |= {
            "judged": len(rows),
            "worst_z": rows["z"].max(),
            "worst_pair": str(rows["pair"][rows["z"].idxmax()]) if len(rows) else "",
            "negative": values["frac_negative"][values["estimator"] == name].astype(float).max(),
            "exact_z": ok["bias_z"][ok["estimator"] == name].astype(float).abs().max(),
        }
        found.append(row | {"verdict": verdict(row)})
    return ESTIMATORS.frame(found)


def verdict(row: Row) -> str:
    """Return what became of an estimator's claims; ``broken`` opens the bad ones."""
    unbiased, nonnegative = bool(row["unbiased_claim"]), bool(row["nonnegative_claim"])
    biased = row["worst_z"] > LARGE_Z
    failed = ["biased"] if unbiased and biased else []
    failed += ["negative"] if nonnegative and row["negative"] > 0 else []
    if failed:
        return f"broken: {' and '.join(failed)}"
    if unbiased and not row["judged"]:
        return "not judged: no row to be trusted"
    if unbiased or nonnegative:
        return "kept; biased, as it says" if biased and not unbiased else "kept"
    return "claims nothing; biased" if biased else "claims nothing"
