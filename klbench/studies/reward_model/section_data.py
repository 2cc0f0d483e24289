"""The tables of the reward-model study, run by run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from klbench.report.blocks import Tables

COLUMNS = frozenset({"method", "combination", "proxy", "pairs", "kl", "proxy_gain", "gold_gain"})
COVERS = ("overoptimisation_by_seed", "peaks", "equal_kl", "reward_models", "reward_models_by_seed", "calibration", "training")
OPTIMUM, BEST, PPO, GOLD = "optimum", "best_of_n", "ppo", "gold"

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Learned:
    """One run: its label, empty where it is the only one, and its tables."""

    label: str
    tables: Tables

    def rows(self, table: str) -> list[dict[str, Any]]:
        """A table's rows; none where there is no such table."""
        if table not in self.tables:
            return []
        return [{str(key): value for key, value in row.items()} for row in self.tables[table].to_dict("records")]

    @cached_property
    def ways(self) -> list[tuple[str, str]]:
        """Methods with their combinations, in the table's order."""
        return list(dict.fromkeys((row["method"], row["combination"] or "") for row in self.rows("overoptimisation")))

    @cached_property
    def proxies(self) -> list[str]:
        """Those that were learned, the fewest pairs first."""
        sizes = {row["proxy"]: row["pairs"] for row in self.rows("overoptimisation") if row["proxy"] != GOLD}
        return sorted(sizes, key=lambda name: float(sizes[name]))

    def path(self, way: tuple[str, str], proxy: str) -> list[Row]:
        """From the reference outward: training by its steps, the others by KL."""
        mine = [
            row for row in self.rows("overoptimisation")
            if (row["method"], row["combination"] or "") == way and row["proxy"] == proxy and math.isfinite(row["kl"])
        ]  # fmt: skip
        return sorted(mine, key=lambda row: row["step"] if way[0] == PPO else row["kl"])

    def peak(self, way: tuple[str, str], proxy: str) -> Row | None:
        """The row of the peaks."""
        return next(
            (r for r in self.rows("peaks") if (r["method"], r["combination"] or "") == way and r["proxy"] == proxy), None
        )


def load(tables: Tables) -> list[Learned]:
    """Each run's own."""
    table = tables["overoptimisation"]
    if "run" not in table:
        return [Learned("", tables)]
    return [
        Learned(str(label), {name: each[each["run"] == label] for name, each in tables.items() if "run" in each})
        for label in table["run"].unique()
    ]


def named(way: tuple[str, str]) -> str:
    """``exact optimum``, ``best of n``, ``PPO, k1_reward``."""
    return {OPTIMUM: "exact optimum", BEST: "best of n"}.get(way[0], f"PPO, {way[1]}")


def extremes(items: Sequence[Any]) -> list[Any]:
    """The first and the last; one, where they are the same."""
    return list(items[:1]) if len(items) < 2 else [items[0], items[-1]]
