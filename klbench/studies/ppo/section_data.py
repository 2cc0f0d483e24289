"""The tables of the training study, run by run."""

from __future__ import annotations

import math
from functools import cached_property

from klbench.report.blocks import Tables
from klbench.report.plots import MOST_ENTRIES
from klbench.report.runs import TrainingRun, by_run
from klbench.rows import Rows, column_of
from klbench.studies.ppo.columns import FINAL, FIXED_POINTS, TRAINING, compared_with


class Trained(TrainingRun):
    """One run of the training study."""

    training_schema = TRAINING

    @cached_property
    def final(self) -> Rows:
        """The rows of all combinations, the least regret first."""
        return sorted(self.rows(FINAL), key=lambda row: (math.isnan(row["regret"]), row["regret"]))

    @cached_property
    def reference(self) -> str:
        """The combination that the others are compared with."""
        return compared_with(column_of(self.rows(FINAL), "combination"))

    @cached_property
    def points(self) -> Rows:
        """The combinations with a fixed point, the least predicted regret first."""
        rows = [row for row in self.rows(FIXED_POINTS) if row["fixed_point"]]
        return sorted(
            rows, key=lambda row: (max(row["predicted_regret"], 1e-9), row["sampled_regret"])
        )

    @cached_property
    def seeds(self) -> int:
        """The number of seeds that were trained, whether they diverged or not."""
        return max(int(row["seeds"] + row["diverged"]) for row in self.final)

    @cached_property
    def beta(self) -> float:
        """The penalty's weight."""
        return float(self.training[0]["beta"]) if self.training else math.nan

    @cached_property
    def algorithm(self) -> str:
        """``PPO``, ``REINFORCE``, ``GRPO`` or a trainer's."""
        return (
            str(self.training[0]["algorithm"]).replace("_", " ").upper()
            if self.training
            else "a policy"
        )

    def drawn(self, *names: str) -> tuple[list[str], list[str]]:
        """Return the names of which lines are drawn, and those for which there is no colour left.

        Those that stand for their fixed point come first, the others in the order in which they
        were named.
        """
        leading = {row["combination"] for row in self.final if row["leads"]}
        kept = sorted(dict.fromkeys(names), key=lambda name: name not in leading)
        return kept[:MOST_ENTRIES], kept[MOST_ENTRIES:]


def load(tables: Tables) -> list[Trained]:
    """Return each run's own tables."""
    return list(by_run(Trained, tables, FINAL))
