"""The tables of the DPO study, run by run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from klbench.report.blocks import Tables
from klbench.report.numbers import number

COLUMNS = frozenset({"arm", "pairs", "last", "best", "stopped", "kl", "reward_slope", "last_difference"})
COVERS = ("training", "dpo_curves", "dpo_rates", "dpo_optima", "dpo_estimates", "dpo_seen")
STANDARD = "dpo"
SYMBOLS = {"kl_qp": "KL(q‖p)", "kl_pq": "KL(p‖q)", "js": "JS(q, p)", "hellinger": "H²(q, p)", "chi2": "χ²(p‖q)"}

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Preferred:
    """One run: its label, empty where it is the only one, and its tables."""

    label: str
    tables: Tables

    def rows(self, table: str) -> list[dict[str, Any]]:
        """A table's rows; none where there is no such table."""
        if table not in self.tables:
            return []
        return [{str(key): value for key, value in row.items()} for row in self.tables[table].to_dict("records")]

    @cached_property
    def final(self) -> list[dict[str, Any]]:
        """One an arm and number of pairs."""
        return self.rows("dpo_final")

    @cached_property
    def arms(self) -> list[str]:
        """Names, the standard first."""
        return list(dict.fromkeys(str(row["arm"]) for row in self.final))

    @cached_property
    def sizes(self) -> list[float]:
        """Numbers of pairs, the infinite one last."""
        return sorted({float(row["pairs"]) for row in self.final})

    @cached_property
    def middle(self) -> float:
        """The finite number of pairs at which arms are compared."""
        finite = [size for size in self.sizes if math.isfinite(size)]
        return finite[len(finite) // 2] if finite else math.inf

    @cached_property
    def optima(self) -> dict[str, dict[str, Any]]:
        """Exact population optima by arm."""
        return {str(row["arm"]): row for row in self.rows("dpo_optima")}

    @cached_property
    def diverged(self) -> list[str]:
        """Replicas that were stopped, and why."""
        if "training" not in self.tables:
            return []
        stopped = [row for row in self.rows("training") if str(row.get("status", "ok")) != "ok"]
        found = {(row["arm"], row["pairs"], row["seed"]): row["status"] for row in stopped}
        return [f"{arm}, {pairs(size)}, seed {seed}: {status}" for (arm, size, seed), status in found.items()]

    def of(self, arm: str) -> list[dict[str, Any]]:
        """An arm's rows, the fewest pairs first."""
        return sorted((row for row in self.final if row["arm"] == arm), key=lambda row: row["pairs"])

    def at(self, size: float) -> list[dict[str, Any]]:
        """All arms with so many pairs."""
        return [row for row in self.final if row["pairs"] == size]


def pairs(size: float) -> str:
    """``1,024 pairs``."""
    return "all pairs" if math.isinf(size) else "1 pair" if size == 1 else f"{size:,.0f} pairs"


def interval(row: Row, name: str, digits: int = 2) -> str:
    """``0.024 (0.018 to 0.036)``; what is rounding of 0 is 0."""
    ends = [0.0 if abs(row[key]) < 1e-12 else row[key] for key in (name, f"{name}_low", f"{name}_high")]
    if math.isnan(ends[1]) or ends[1] == ends[2]:
        return number(ends[0], digits)
    return f"{number(ends[0], digits)} ({number(ends[1], digits)} to {number(ends[2], digits)})"


def load(tables: Tables) -> Sequence[Preferred]:
    """Each run's own."""
    final = tables["dpo_final"]
    if "run" not in final:
        return [Preferred("", tables)]
    return [
        Preferred(str(label), {name: table[table["run"] == label] for name, table in tables.items() if "run" in table})
        for label in final["run"].unique()
    ]
