"""The tables of the training study, run by run, and combinations by where they must end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from klbench.report.blocks import Tables
from klbench.report.numbers import number

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = frozenset({
    "algorithm", "combination", "placement", "level", "beta", "seed", "step", "regret", "kl", "kl_estimate", "sampled_reward",
})  # fmt: skip
COVERS = ("final", "curves", "frontier", "matched", "noise_free", "fixed_points", "combinations", "recovery", "recovery_curves")
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

ALGORITHMS = (
    "PPO, REINFORCE, GRPO",
    (
        "Settings of one loop here, and not all that trainers call so. PPO: the clipped surrogate, with the mean of a group's "
        "others for a critic. REINFORCE: the same baseline without a clip, which is RLOO. GRPO: returns in units of their "
        "group's spread, a penalty that stands in them included. All sum over tokens. TRL GRPO, VERL PPO and OPENRLHF PPO are "
        "those of the trainers."
    ),
)
"""The term that says what the algorithms' names mean."""

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Trained:
    """One run: its label, empty where it is the only one, and its tables."""

    label: str
    tables: Tables

    def rows(self, table: str) -> list[dict[str, Any]]:
        """A table's rows; none where there is no such table."""
        if table not in self.tables:
            return []
        return [{str(key): value for key, value in row.items()} for row in self.tables[table].to_dict("records")]

    @cached_property
    def final(self) -> list[Row]:
        """One a combination, the least regret first."""
        return sorted(self.rows("final"), key=lambda row: (math.isnan(row["regret"]), row["regret"]))

    @cached_property
    def points(self) -> dict[str, Row]:
        """Predicted and reached, by combination."""
        return {row["combination"]: row for row in self.rows("fixed_points")}

    @cached_property
    def seeds(self) -> int:
        """That were trained, whether they diverged or not."""
        return max(int(row["seeds"] + row.get("diverged", 0)) for row in self.final)

    @cached_property
    def reference(self) -> Row | None:
        """What the others are compared with."""
        return next((row for row in self.final if row["combination"] == REFERENCE), None)

    @cached_property
    def beta(self) -> float:
        """The penalty's weight."""
        return float(self.tables["training"]["beta"].iloc[0])

    @cached_property
    def algorithm(self) -> str:
        """``ppo``, ``reinforce``, ``grpo`` or a trainer's."""
        return str(self.tables["training"]["algorithm"].iloc[0])

    @cached_property
    def updates(self) -> int:
        """Batches that were trained on."""
        return int(self.tables["training"]["step"].max())

    @cached_property
    def diverged(self) -> list[tuple[str, int, str]]:
        """Combination, seed and why, of replicas that were stopped."""
        table = self.tables["training"]
        if "status" not in table:
            return []
        stopped = table[(table["status"] != "ok") & table["status"].notna()]
        found = stopped.drop_duplicates(["combination", "seed"])
        return [(str(r["combination"]), int(r["seed"]), str(r["status"])) for r in found.to_dict("records")]

    def toward(self, *points: str) -> list[Row]:
        """Combinations with these fixed points, the least regret first."""
        return [row for row in self.final if (row["fixed_point"] or UNKNOWN) in points]

    def leaders(self) -> list[str]:
        """One combination for each fixed point, k1 in the reward and then by regret; each unknown one for itself."""
        names: list[str] = [REFERENCE] if self.reference else []
        seen = {OPTIMUM} if self.reference else set()
        for row in self.final:
            point = row["fixed_point"] or row["combination"]
            if point not in seen:
                seen.add(point)
                names.append(row["combination"])
        return names


def interval(row: Row, name: str, digits: int = 2) -> str:
    """``0.024 (0.018 to 0.036)``."""
    if math.isnan(row.get(f"{name}_low", math.nan)):
        return number(row[name], digits)
    return f"{number(row[name], digits)} ({number(row[f'{name}_low'], digits)} to {number(row[f'{name}_high'], digits)})"


def load(tables: Tables) -> list[Trained]:
    """Each run's own; those without a final table have nothing to say here."""
    if "final" not in tables:
        return []
    training: pd.DataFrame = tables["training"]
    if "run" not in training:
        return [Trained("", tables)]
    return [
        Trained(str(label), {name: table[table["run"] == label] for name, table in tables.items() if "run" in table})
        for label in training["run"].unique()
    ]


def families(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by fixed point, in the order of :data:`FLOORS`."""
    return {point: found for point in FLOORS if (found := [row for row in rows if row["fixed_point"] == point])}
