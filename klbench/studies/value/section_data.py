"""The tables of the value study, with what the parts of its section ask of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from klbench.report.blocks import LegendEntry
from klbench.report.figures import LIGHT, MARKERS
from klbench.report.runs import RunTables
from klbench.studies.value.columns import DIFFERENCES, ERRORS, ESTIMATORS, PAIRS, VALUES

if TYPE_CHECKING:
    import pandas as pd

MAIN_TARGET = "KL(q‖p)"
PLAIN = ("k1", "k2", "k3", "k_lambda", "k_fitted", "k1_weighted", "k3_weighted", "k2_weighted", "k1_self_normalized")
HEADLINES = ("k1", "k2", "k3", "k_lambda", "k_fitted", "k3_verl", "bregman_kl_pq")
OFF_POLICY_HEADLINES = ("k1", "k2", "k3", "k1_weighted", "k2_weighted", "k3_weighted", "k1_self_normalized")
SLOTS = {
    "k1": 0,
    "k2": 1,
    "k3": 2,
    "k_lambda": 3,
    "k_fitted": 4,
    "k3_verl": 5,
    "bregman_kl_pq": 7,
    "k1_weighted": 0,
    "k2_weighted": 1,
    "k3_weighted": 2,
    "k1_self_normalized": 6,
}
"""A weighted estimator has the colour of the one it weights, another marker, and a dashed line."""
WEIGHTED_MARKERS = {"k1_weighted": "<", "k2_weighted": "h", "k3_weighted": ">", "k1_self_normalized": "X"}
MAX_PANELS = 8
SKEWED = 1 / 3
"""Tail index from which a ratio has no finite third moment."""
LARGE_Z = 5.0
"""Standard errors beyond which a deviation is no accident, over as many rows as a run has."""


def plainness(name: str) -> tuple[int, int, str]:
    """Sorts names: the plain ones first, then the short ones."""
    return (PLAIN.index(name) if name in PLAIN else len(PLAIN), len(name), name)


@dataclass(frozen=True, eq=False)
class Data(RunTables):
    """The study's tables, of one run or of several; those that a run lacks are empty."""

    @cached_property
    def values(self) -> pd.DataFrame:
        """The main table, with three more columns.

        ``kl`` is the pair's exact divergence. ``error`` is the root-mean-square error to rank the row by: the exact one where
        that is known, heavy tail or not (``error_is_exact``), or else the measured one of a row that can be trusted; NaN where
        there is neither.
        """
        values = self.frame(VALUES).copy()
        values["series"] = values["series"].fillna("").astype(str).str.strip()
        only = str(values["pair"].iloc[0]) if values["pair"].nunique() == 1 else "all pairs"
        values["series"] = values["series"].replace("", "other pairs" if values["series"].ne("").any() else only)
        of_pairs = self.pairs.set_index("pair")["kl_qp"]
        own = values[values["target"] == MAIN_TARGET].drop_duplicates("pair").set_index("pair")["truth"]
        values["kl"] = values["pair"].map(of_pairs).astype(float).fillna(values["pair"].map(own).astype(float))
        exact = (values["exact_bias"].astype(float) ** 2 + values["exact_std"].astype(float) ** 2) ** 0.5
        values["error_is_exact"] = (exact < math.inf) & values["status"].isin(["ok", "heavy tail"])
        measured = values["rmse"].astype(float).where(values["status"] == "ok")
        values["error"] = exact.where(values["error_is_exact"], measured)
        return values

    @cached_property
    def differences(self) -> pd.DataFrame:
        """Paired differences of two estimators."""
        return self.frame(DIFFERENCES)

    @cached_property
    def errors(self) -> pd.DataFrame:
        """Quantiles of the errors of batches."""
        return self.frame(ERRORS)

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """One row for each pair."""
        return self.frame(PAIRS).drop_duplicates("pair")

    @cached_property
    def estimators(self) -> pd.DataFrame:
        """One row for each estimator."""
        return self.frame(ESTIMATORS).drop_duplicates("estimator")

    @cached_property
    def measured(self) -> pd.DataFrame:
        """The rows that hold numbers."""
        return self.values[~self.values["status"].str.startswith("skipped")]

    @cached_property
    def ok(self) -> pd.DataFrame:
        """The rows whose numbers can be trusted."""
        return self.measured[self.measured["status"] == "ok"]

    @property
    def several(self) -> bool:
        """Whether the tables are of several runs."""
        return "run" in self.values

    @cached_property
    def target(self) -> str:
        """``KL(q‖p)``, or what most rows estimate in a run without it."""
        targets = self.measured["target"]
        return MAIN_TARGET if targets.empty or (targets == MAIN_TARGET).any() else str(targets.mode()[0])

    @cached_property
    def _records(self) -> dict[tuple[str, int], dict[str, dict[str, Any]]]:
        records: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
        for row in self.measured.to_dict("records"):
            records.setdefault((row["pair"], int(row["batch"])), {})[row["estimator"]] = {str(k): v for k, v in row.items()}
        return records

    def at(self, pair: str, batch: int) -> dict[str, dict[str, Any]]:
        """The measured rows of a pair and batch size, by estimator."""
        return self._records.get((pair, batch), {})

    @cached_property
    def batches(self) -> list[int]:
        """Batch sizes, rising."""
        return sorted(int(batch) for batch in self.values["batch"].unique())

    @cached_property
    def ends(self) -> list[int]:
        """The smallest and the largest batch size, or the only one."""
        return sorted({self.batches[0], self.batches[-1]})

    @cached_property
    def names(self) -> list[str]:
        """Estimators, in the table's order."""
        return [str(name) for name in self.values["estimator"].unique()]

    @cached_property
    def unbiased(self) -> frozenset[str]:
        """Estimators that claim to be unbiased."""
        return frozenset(self.estimators["estimator"][self.estimators["unbiased_claim"].astype(bool)])

    @cached_property
    def weighted(self) -> frozenset[str]:
        """Estimators that are for samples of a third distribution."""
        return frozenset(self.estimators["estimator"][self.estimators["needs_weight"].astype(bool)])

    @cached_property
    def off_policy(self) -> frozenset[str]:
        """Pairs whose samples come from a third distribution."""
        return frozenset(self.pairs["pair"][self.pairs["off_policy"].astype(bool)])

    @cached_property
    def unreached(self) -> dict[str, float]:
        """Pairs whose p gives probability to what q never samples, and how much."""
        masses = zip(self.pairs["pair"], self.pairs["unreached"], strict=True)
        return {str(pair): float(mass) for pair, mass in masses if mass > 0}

    @cached_property
    def series(self) -> dict[str, list[str]]:
        """Pairs by series, each by rising KL."""
        table = self.values.drop_duplicates("pair").sort_values("kl", kind="stable")
        order = list(dict.fromkeys(self.values["series"]))
        return {name: [str(pair) for pair in table["pair"][table["series"] == name]] for name in order}

    @cached_property
    def kl(self) -> dict[str, float]:
        """Exact ``KL(q‖p)`` by pair; NaN where it is not known."""
        table = self.values.drop_duplicates("pair")
        return dict(zip(table["pair"], table["kl"], strict=True))

    @cached_property
    def _parameters(self) -> dict[str, dict[str, Any]]:
        return {
            pair: _leaves(json.loads(text)) for pair, text in zip(self.pairs["pair"], self.pairs["parameters"], strict=True)
        }

    def is_one_family(self, series: str) -> bool:
        """Whether a line may join the pairs: each parameter in which they differ rises, or falls, with KL."""
        known = [self._parameters[pair] for pair in self.series[series] if pair in self._parameters]
        if any(each.keys() != known[0].keys() for each in known):
            return False
        for columns in ([each[key] for each in known] for key in known[0]) if known else ():
            if len(set(columns)) > 1 and not all(isinstance(value, int | float) for value in columns):
                return False
            if list(columns) not in (sorted(columns), sorted(columns, reverse=True)):
                return False
        return True

    @cached_property
    def _differences(self) -> dict[tuple[str, int, str, str], tuple[float, float]]:
        columns = ("pair", "batch", "first", "second", "rmse_difference", "rmse_difference_se")
        rows = zip(*(self.differences[column] for column in columns), strict=True)
        return {(pair, int(batch), first, second): (float(d), float(se)) for pair, batch, first, second, d, se in rows}

    def error_difference(self, pair: str, batch: int, first: str, second: str) -> tuple[float, float] | None:
        """``error(first) - error(second)`` and its standard error: 0 where both are exact; None where it is not known.

        Of two measured ones on the same samples, as the table of differences has it.
        """
        rows = [self.at(pair, batch)[name] for name in (first, second)]
        exact = [bool(row["error_is_exact"]) for row in rows]
        if any(exact):
            unsure = [float(row["rmse_se"]) for row, known in zip(rows, exact, strict=True) if not known]
            return float(rows[0]["error"]) - float(rows[1]["error"]), math.hypot(*unsure) if unsure else 0.0
        if (pair, batch, first, second) in self._differences:
            return self._differences[pair, batch, first, second]
        found = self._differences.get((pair, batch, second, first))
        return None if found is None else (-found[0], found[1])

    @cached_property
    def skewed(self) -> frozenset[str]:
        """Pairs whose ratio has no finite third moment: a mean over few samples is off there by more than its s.e. says."""
        tail = self.pairs[["tail_index", "khat"]].astype(float).max(axis=1)
        return frozenset(self.pairs["pair"][tail >= SKEWED])

    def is_off_policy(self, series: str) -> bool:
        """Whether the samples of this series come from a third distribution."""
        return any(pair in self.off_policy for pair in self.series[series])

    def headlines(self, *, off_policy: bool = False, present: Iterable[str] | None = None) -> list[str]:
        """The few estimators that a figure shows, of those present there."""
        kept = frozenset(self.names if present is None else present)
        there = [name for name in self.names if name in kept]
        known = OFF_POLICY_HEADLINES if off_policy else HEADLINES
        chosen = [name for name in known if name in there] + [name for name in there if name.startswith("k_lambda:")]
        chosen += [name for name in sorted(there, key=plainness) if name not in chosen and len(chosen) < 3]
        return chosen[:8]

    @cached_property
    def _slots(self) -> dict[str, int]:
        """Places in the palette: fixed for the known estimators, the free ones in turn for others."""
        free = [slot for slot in range(len(LIGHT)) if slot not in {SLOTS.get(name) for name in self.names}] or list(
            range(len(LIGHT))
        )
        others = [name for name in self.names if name not in SLOTS]
        return SLOTS | {name: free[i % len(free)] for i, name in enumerate(others)}

    def legend(self, names: Iterable[str]) -> list[LegendEntry]:
        """Colour and marker of each, the same in all figures."""
        targets = dict(zip(self.values["estimator"], self.values["target"], strict=True))
        entries = []
        for name in names:
            slot = self._slots[name]
            label = name if targets[name] == self.target else f"{name}, of {targets[name]}"
            marker = WEIGHTED_MARKERS.get(name, MARKERS[slot])
            entries.append(LegendEntry(label, slot, marker, dashed=name in WEIGHTED_MARKERS))
        return entries

    @property
    def cut(self) -> str:
        """What a caption must add where there are more series than a figure has room for."""
        return f" Drawn are the first {MAX_PANELS} of {len(self.series)} series." if len(self.series) > MAX_PANELS else ""


def _leaves(node: Any, path: str = "") -> dict[str, Any]:
    """A pair's parameters without their nesting."""
    if not isinstance(node, dict | list):
        return {path: node}
    items = node.items() if isinstance(node, dict) else enumerate(node)
    return {key: value for name, each in items for key, value in _leaves(each, f"{path}.{name}").items()}
