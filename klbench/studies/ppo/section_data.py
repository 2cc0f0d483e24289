"""The tables of the training study, run by run, and combinations by where they must end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from klbench.report.blocks import Tables
from klbench.report.runs import RunTables, by_run
from klbench.report.tables import Row
from klbench.studies.ppo.columns import FINAL, FIXED_POINTS, TRAINING

REFERENCE, NONE = "k1_reward", "none"
OPTIMUM, GREEDY, UNKNOWN = "optimum", "greedy", ""
FLOORS = ("token_kl", "token_k3", "sequence_k3")
WORDS = {
    "optimum": "the optimum",
    "token_kl": "token-level KL(q‖p)",
    "token_k3": "token-level KL(p‖q)",
    "sequence_k3": "KL(p‖q) of sequences",
    "greedy": "the best sequence alone",
    "": "none known",
}


@dataclass(frozen=True, eq=False)
class Trained(RunTables):
    """One run of the training study."""

    @cached_property
    def training(self) -> list[Row]:
        """The evaluations of all replicas."""
        return self.rows(TRAINING)

    @cached_property
    def final(self) -> list[Row]:
        """One a combination, the least regret first."""
        return sorted(self.rows(FINAL), key=lambda row: (math.isnan(row["regret"]), row["regret"]))

    @cached_property
    def points(self) -> dict[str, Row]:
        """Predicted and reached, by combination."""
        return {row["combination"]: row for row in self.rows(FIXED_POINTS)}

    @cached_property
    def seeds(self) -> int:
        """The number of seeds that were trained, whether they diverged or not."""
        return max(int(row["seeds"] + row["diverged"]) for row in self.final)

    @cached_property
    def reference(self) -> Row | None:
        """The combination that the others are compared with."""
        return next((row for row in self.final if row["combination"] == REFERENCE), None)

    @cached_property
    def beta(self) -> float:
        """The penalty's weight."""
        return float(self.training[0]["beta"]) if self.training else math.nan

    @cached_property
    def algorithm(self) -> str:
        """``ppo``, ``reinforce``, ``grpo`` or a trainer's."""
        return str(self.training[0]["algorithm"]) if self.training else ""

    @cached_property
    def updates(self) -> int:
        """The number of batches that were trained on."""
        return max((int(row["step"]) for row in self.training), default=0)

    @cached_property
    def diverged(self) -> list[tuple[str, int, str]]:
        """Combination, seed and why, of replicas that were stopped."""
        found: dict[tuple[str, int], str] = {}
        for row in self.training:
            if row["status"] not in ("ok", ""):
                found.setdefault((row["combination"], int(row["seed"])), row["status"])
        return [(name, seed, status) for (name, seed), status in found.items()]

    def toward(self, *points: str) -> list[Row]:
        """Return combinations with these fixed points, the least regret first."""
        return [row for row in self.final if row["fixed_point"] in points]

    def leaders(self) -> list[str]:
        """Return one combination for each fixed point, k1_reward for the optimum, else the best; and all without one."""
        names: list[str] = [REFERENCE] if self.reference else []
        seen = {OPTIMUM} if self.reference else set()
        for row in self.final:
            point = row["fixed_point"] or row["combination"]
            if point not in seen:
                seen.add(point)
                names.append(row["combination"])
        return names


def load(tables: Tables) -> list[Trained]:
    """Return each run's own tables."""
    return list(by_run(Trained, tables, FINAL))


def families(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return rows by fixed point, in the order of :data:`FLOORS`."""
    return {point: found for point in FLOORS if (found := [row for row in rows if row["fixed_point"] == point])}
