"""The tables of the value study, with what the parts of its section ask of them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from klbench.report import plots
from klbench.report.blocks import LegendEntry
from klbench.report.plots import MOST_ENTRIES
from klbench.report.runs import RunTables, stored
from klbench.report.tables import Row
from klbench.rows import Rows, column_of, distinct, grouped, keyed
from klbench.studies.value.columns import (
    ALL,
    ERRORS,
    ESTIMATORS,
    MAIN_TARGET,
    PAIRS,
    RANGES,
    TWO,
    UNBIASED,
    VALUES,
    common_batch,
    plainness,
)

KNOWN = ("k1", "k2", "k3")
MOST_PANELS = 8
WEIGHTED_MARKERS = ("<", "h", ">", "X")


@dataclass(frozen=True, eq=False)
class Data(RunTables):
    """The study's tables, of one run or of several; those that a run lacks are empty.

    Rows carry the series as the page writes it; those of ``values`` also the pair's ``kl``.
    """

    @cached_property
    def pairs(self) -> dict[str, Row]:
        """The rows of the pairs."""
        return keyed(self.rows(PAIRS), "pair")

    @cached_property
    def values(self) -> Rows:
        """All rows of the main table."""
        named = [row | {"series": self.series_of(row)} for row in self.rows(VALUES)]
        return [
            row
            | {"kl": self.pairs[row["pair"]]["kl_qp"] if row["pair"] in self.pairs else math.nan}
            for row in named
        ]

    def series_of(self, row: Row) -> str:
        """Return the series of a row as the page writes it."""
        return str(row["series"]).strip() or self._unnamed

    @cached_property
    def _unnamed(self) -> str:
        """The label of a series without a name."""
        values = self.frame(VALUES)
        if any(str(each).strip() for each in values["series"].dropna().unique()):
            return "other pairs"
        return "all pairs" if values["pair"].nunique() > 1 else str(values["pair"].iloc[0])

    @cached_property
    def measured(self) -> Rows:
        """The rows that hold numbers."""
        return [row for row in self.values if not row["status"].startswith("skipped")]

    @property
    def several(self) -> bool:
        """Return whether the tables are of several runs."""
        return "run" in self.frame(VALUES)

    @cached_property
    def target(self) -> str:
        """The divergence whose estimators are ranked."""
        return next(iter(column_of(self.all_ranges, "target")), MAIN_TARGET)

    @cached_property
    def batches(self) -> list[int]:
        """Batch sizes, rising."""
        return sorted({int(row["batch"]) for row in self.values})

    @cached_property
    def batch(self) -> int:
        """The smallest batch size at which every estimator was measured."""
        return common_batch(self.frame(VALUES))

    @cached_property
    def shown_batches(self) -> list[int]:
        """The smallest batch size, the one for all estimators, and the largest."""
        return sorted({self.batches[0], self.batch, self.batches[-1]})

    @cached_property
    def _at(self) -> dict[tuple[str, int], dict[str, Row]]:
        return by_pair_and_batch(self.measured)

    def at(self, pair: str, batch: int) -> dict[str, Row]:
        """Return the measured rows of a pair and batch size, by estimator."""
        return self._at.get((pair, batch), {})

    @cached_property
    def off_policy(self) -> frozenset[str]:
        """Pairs whose samples come from a third distribution."""
        return frozenset(pair for pair, row in self.pairs.items() if row["off_policy"])

    @cached_property
    def series(self) -> dict[str, list[str]]:
        """Pairs by series, each by rising KL."""
        pairs = grouped(keyed(self.values, "pair").values(), "series")
        return {
            name: column_of(
                sorted(rows, key=lambda row: (math.isnan(row["kl"]), row["kl"])), "pair"
            )
            for name, rows in pairs.items()
        }

    @cached_property
    def main_series(self) -> dict[str, list[str]]:
        """The series with samples of q; all of them where there is none."""
        found = {
            name: pairs
            for name, pairs in self.series.items()
            if not self.off_policy.intersection(pairs)
        }
        return found or self.series

    def kl(self, pair: str) -> float:
        """Return a pair's exact KL(q‖p); NaN where it is not known."""
        return float(self.pairs[pair]["kl_qp"]) if pair in self.pairs else math.nan

    def kls(self, pairs: Iterable[str]) -> list[float]:
        """Return the different positive divergences of pairs, rising."""
        return sorted({self.kl(pair) for pair in pairs if self.kl(pair) > 0})

    all_ranges = stored(RANGES)

    def ranges(self, among: str, batch: int) -> Rows:
        """Return the ranges of KL with their winners, of the series with samples of q."""
        rows = (row | {"series": self.series_of(row)} for row in self.all_ranges)
        return [
            row
            for row in rows
            if (row["among"], row["batch"]) == (among, batch) and row["series"] in self.main_series
        ]

    def winners(self, among: str, batch: int) -> Counter[str]:
        """Return how many pairs each estimator wins."""
        found: Counter[str] = Counter()
        for row in self.ranges(among, batch):
            found[row["estimator"]] += int(row["pairs"])
        return found

    def is_one_family(self, pairs: Sequence[str]) -> bool:
        """Tell whether a line may join pairs.

        Each parameter in which they differ rises, or falls, with KL.
        """
        known = [
            _leaves(json.loads(self.pairs[pair]["parameters"]))
            for pair in pairs
            if pair in self.pairs
        ]
        if any(each.keys() != known[0].keys() for each in known):
            return False
        for key in known[0] if known else ():
            values = column_of(known, key)
            if len(set(values)) > 1 and not all(isinstance(value, int | float) for value in values):
                return False
            if values not in (sorted(values), sorted(values, reverse=True)):
                return False
        return True

    @cached_property
    def _wins(self) -> Counter[str]:
        groups = [(among, batch) for among in (ALL, UNBIASED, TWO) for batch in self.shown_batches]
        return sum((self.winners(*group) for group in groups), Counter())

    def _chosen(self, names: Sequence[str]) -> list[str]:
        """Return all names where a figure has room for them, or else the best known and those
        that win.
        """
        others = {row["estimator"] for row in self.measured if row["target"] != self.target}
        order = sorted(
            names,
            key=lambda name: (
                name not in KNOWN,
                name in others,
                -self._wins[name],
                plainness(name),
            ),
        )
        return [name for name in names if name in order[:MOST_ENTRIES]]

    def names(self, *, off_policy: bool) -> list[str]:
        """Return the estimators that were measured on samples of q, or on those of a third
        distribution.
        """
        rows = (row for row in self.measured if (row["pair"] in self.off_policy) == off_policy)
        return distinct(rows, "estimator")

    @cached_property
    def entries(self) -> dict[str, LegendEntry]:
        """Colour and marker of the estimators that are drawn on samples of q.

        Dashed where they are of another divergence.
        """
        chosen = self._chosen(self.names(off_policy=False) or self.names(off_policy=True))
        targets = {row["estimator"]: row["target"] for row in self.measured}
        labels = [
            name if targets[name] == self.target else f"{name}, of {targets[name]}"
            for name in chosen
        ]
        found = plots.legend(chosen, labels=labels)
        return {
            name: replace(entry, dashed=targets[name] != self.target)
            for name, entry in found.items()
        }

    @cached_property
    def off_policy_entries(self) -> dict[str, LegendEntry]:
        """The same on samples of a third distribution.

        A weighted estimator has the colour of the one that it weights.
        """
        found: dict[str, LegendEntry] = {}
        for i, name in enumerate(self._chosen(self.names(off_policy=True))):
            base = next(
                (entry for plain, entry in self.entries.items() if name.startswith(f"{plain}_")),
                None,
            )
            marker = WEIGHTED_MARKERS[i % len(WEIGHTED_MARKERS)]
            other = (
                replace(base, label=name, marker=marker, dashed=True)
                if base
                else LegendEntry(name, i, marker)
            )
            found[name] = self.entries.get(name, other)
        return found

    def drawn(self, pair: str) -> dict[str, LegendEntry]:
        """Return the estimators that are drawn on a pair."""
        return self.off_policy_entries if pair in self.off_policy else self.entries

    def left_out(self, entries: Iterable[str], *, off_policy: bool = False) -> list[str]:
        """Return the estimators that a figure has no room for."""
        kept = set(entries)
        return [name for name in self.names(off_policy=off_policy) if name not in kept]

    @cached_property
    def typical(self) -> dict[str, str]:
        """The pair of each series whose KL is closest to half a nat on a logarithmic scale."""
        return {
            name: min(kept, key=lambda pair: abs(math.log(2 * self.kl(pair))))
            for name, pairs in self.series.items()
            if (kept := [pair for pair in pairs if self.kl(pair) > 0])
        }

    @cached_property
    def errors(self) -> dict[tuple[str, int], dict[str, Row]]:
        """The quantiles of the errors of batches, by pair and batch size, then by estimator."""
        return by_pair_and_batch(self.rows(ERRORS))

    estimators = stored(ESTIMATORS)
    """One row for each estimator, of each run."""


def by_pair_and_batch(rows: Iterable[Row]) -> dict[tuple[str, int], dict[str, Row]]:
    """Return rows by estimator, for each pair and batch size."""
    return {key: keyed(found, "estimator") for key, found in grouped(rows, "pair", "batch").items()}


def _leaves(node: Any, path: str = "") -> Row:
    """Return a pair's parameters without their nesting."""
    if not isinstance(node, dict | list):
        return {path: node}
    items = node.items() if isinstance(node, dict) else enumerate(node)
    return {
        key: value for name, each in items for key, value in _leaves(each, f"{path}.{name}").items()
    }
