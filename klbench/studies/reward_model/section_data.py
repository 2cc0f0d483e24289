"""The tables of the reward-model study, run by run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from klbench.report.blocks import Tables
from klbench.report.runs import RunTables, by_run
from klbench.report.tables import Row
from klbench.studies.reward_model.columns import GOLD, OVEROPTIMISATION, PEAKS

OPTIMUM, BEST, PPO = "optimum", "best_of_n", "ppo"


@dataclass(frozen=True, eq=False)
class Learned(RunTables):
    """One run of the reward-model study."""

    @cached_property
    def points(self) -> list[Row]:
        """The points of all paths away from the reference."""
        return self.rows(OVEROPTIMISATION)

    @cached_property
    def ways(self) -> list[tuple[str, str]]:
        """Methods with their combinations, in the table's order."""
        return list(dict.fromkeys(map(way_of, self.points)))

    @cached_property
    def proxies(self) -> list[str]:
        """Those that were learned, the fewest pairs first."""
        sizes = {row["proxy"]: row["pairs"] for row in self.points if row["proxy"] != GOLD}
        return sorted(sizes, key=lambda name: float(sizes[name]))

    def path(self, way: tuple[str, str], proxy: str) -> list[Row]:
        """Return the points from the reference outward: training by its steps, the others by KL."""
        mine = [r for r in self.points if way_of(r) == way and r["proxy"] == proxy and math.isfinite(r["kl"])]
        return sorted(mine, key=lambda row: row["step"] if way[0] == PPO else row["kl"])

    def peak(self, way: tuple[str, str], proxy: str) -> Row | None:
        """Return the row of the peaks; None where there is none."""
        return next((row for row in self.rows(PEAKS) if way_of(row) == way and row["proxy"] == proxy), None)


def load(tables: Tables) -> list[Learned]:
    """Return each run's own tables, of those runs that learned a reward."""
    return [learned for learned in by_run(Learned, tables, OVEROPTIMISATION) if learned.proxies]


def way_of(row: Row) -> tuple[str, str]:
    """Return the method and the combination of a row."""
    return row["method"], row["combination"]


def named(way: tuple[str, str]) -> str:
    """Return ``exact optimum``, ``best of n``, or ``PPO, k1_reward``."""
    return {OPTIMUM: "exact optimum", BEST: "best of n"}.get(way[0], f"PPO, {way[1]}")


def extremes(items: Sequence[Any]) -> list[Any]:
    """Return the first and the last; one, where they are the same."""
    return list(items[:1]) if len(items) < 2 else [items[0], items[-1]]
