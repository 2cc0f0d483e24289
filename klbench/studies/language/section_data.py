"""The tables of training on language models, run by run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from klbench.report.blocks import Tables

COLUMNS = frozenset({"combination", "reward", "reward_se", "kl", "kl_se", "reward_gain", "kl_share", "outcome", "seeds"})
COVERS = ("training", "texts", "combinations", "raters")
UNTRAINED, NONE = "untrained", "none"
HOLDS, FAILS, UNTOLD, FEW = "holds", "does not hold", "not told", "too few seeds to tell"

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class LmTrained:
    """One run: its label, empty where it is the only one, and its tables."""

    label: str
    tables: Tables

    def rows(self, table: str) -> list[Row]:
        """A table's rows; none where there is no such table."""
        if table not in self.tables:
            return []
        return [{str(key): value for key, value in row.items()} for row in self.tables[table].to_dict("records")]

    @cached_property
    def compared(self) -> list[Row]:
        """One a combination, that before training first."""
        return self.rows("compared")

    @cached_property
    def trained(self) -> list[Row]:
        """The same without the one before training, the largest objective first."""
        rows = [row for row in self.compared if row["combination"] != UNTRAINED]
        return sorted(rows, key=lambda row: (math.isnan(row["objective"]), -row["objective"]))

    def of(self, name: str) -> Row | None:
        """The row of a combination."""
        return next((row for row in self.compared if row["combination"] == name), None)

    def toward(self, *outcomes: str) -> list[Row]:
        """Combinations with these outcomes."""
        return [row for row in self.trained if row["outcome"] in outcomes]

    @cached_property
    def first(self) -> Row:
        """A row of the training table."""
        return self.rows("training")[0]

    @cached_property
    def dpo(self) -> bool:
        """Whether it learned from ranked pairs."""
        return bool(self.first["algorithm"] == "dpo")

    @cached_property
    def paid(self) -> bool:
        """Whether a reward model paid."""
        return any("proxy" in row for row in self.compared)

    @cached_property
    def kept_raters(self) -> list[Row]:
        """Reward models as they were kept: of each the report with the least loss on held-out pairs."""
        last = {row["seed"]: row["kept"] for row in self.rows("raters")}
        return [row for row in self.rows("raters") if row["step"] == last[row["seed"]]]

    @cached_property
    def updates(self) -> int:
        """The last step."""
        return int(self.tables["training"]["step"].max())

    @cached_property
    def diverged(self) -> list[str]:
        """Which runs were stopped, and why."""
        table = self.tables["training"]
        stopped = table[table["status"] != "ok"].drop_duplicates(["combination", "seed"])
        return [f"{row['combination']}, seed {row['seed']}: {row['status']}" for row in stopped.to_dict("records")]


def load(tables: Tables) -> list[LmTrained]:
    """Each run's own."""
    compared = tables["compared"]
    if "training" not in tables:
        return []
    if "run" not in compared:
        return [LmTrained("", tables)]
    return [
        LmTrained(str(label), {name: table[table["run"] == label] for name, table in tables.items() if "run" in table})
        for label in compared["run"].unique()
    ]
