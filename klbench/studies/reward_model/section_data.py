"""The tables of the reward-model study, run by run."""

from __future__ import annotations

from functools import cached_property

from klbench.report.blocks import Tables
from klbench.report.plots import MOST_ENTRIES
from klbench.report.runs import RunTables, by_run, stored
from klbench.report.tables import Row
from klbench.rows import Rows, finite, where
from klbench.studies.reward_model.columns import GOLD, OVEROPTIMISATION, PEAKS

OPTIMUM, BEST, PPO = ("optimum", ""), ("best_of_n", ""), "ppo"
Way = tuple[str, str]
"""A method, and its combination where it has one."""


class Learned(RunTables):
    """One run of the reward-model study."""

    points = stored(OVEROPTIMISATION)
    """The points of all paths away from the reference."""

    @cached_property
    def ways(self) -> list[Way]:
        """Methods with their combinations, in the table's order."""
        return list(dict.fromkeys(map(way_of, self.points)))

    @cached_property
    def paths(self) -> list[Way]:
        """The ways that have more than one point, so that a line can be drawn."""
        return [
            way
            for way in self.ways
            if any(len(self.path(way, proxy)) > 1 for proxy in self.proxies)
        ]

    @cached_property
    def trained(self) -> list[Way]:
        """The ways that are PPO."""
        return [way for way in self.paths if way[0] == PPO]

    @cached_property
    def proxies(self) -> list[str]:
        """The proxies that were learned, the fewest pairs first."""
        sizes = {row["proxy"]: row["pairs"] for row in self.points if row["proxy"] != GOLD}
        return sorted(sizes, key=lambda name: float(sizes[name]))

    @cached_property
    def drawn(self) -> list[str]:
        """The proxies for which there is a colour: spread evenly, with the first and the last."""
        names, last = self.proxies, MOST_ENTRIES - 1
        return (
            names
            if len(names) <= last + 1
            else [names[round(i * (len(names) - 1) / last)] for i in range(last + 1)]
        )

    def path(self, way: Way, proxy: str) -> Rows:
        """Return the points from the reference outward: training by its steps, the others by KL."""
        mine = [row for row in finite(where(self.points, proxy=proxy), "kl") if way_of(row) == way]
        return sorted(mine, key=lambda row: float(row["step"] if way[0] == PPO else row["kl"]))

    def peak(self, way: Way, proxy: str) -> Row | None:
        """Return the row of the peaks; None where there is none."""
        return next(
            (row for row in where(self.rows(PEAKS), proxy=proxy) if way_of(row) == way), None
        )


def load(tables: Tables) -> list[Learned]:
    """Return each run's own tables, of those runs that learned a reward."""
    return [learned for learned in by_run(Learned, tables, OVEROPTIMISATION) if learned.proxies]


def way_of(row: Row) -> Way:
    """Return the method and the combination of a row."""
    return row["method"], row["combination"]


def named(way: Way) -> str:
    """Return ``exact optimum``, ``best of n``, or ``PPO, k1_reward``."""
    return {OPTIMUM: "exact optimum", BEST: "best of n"}.get(way, f"PPO, {way[1]}")
