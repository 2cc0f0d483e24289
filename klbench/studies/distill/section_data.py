"""One run of the distillation study, as its page asks for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from klbench.report.blocks import Tables
from klbench.report.runs import RunTables, by_run
from klbench.report.tables import Row
from klbench.studies.distill.columns import DISTILL, FINAL

OWNERS = ("teacher", "student")


@dataclass(frozen=True, eq=False)
class Distilled(RunTables):
    """One run of the study."""

    @cached_property
    def pairs(self) -> dict[str, list[Row]]:
        """Rows with a gradient, by pair."""
        found: dict[str, list[Row]] = {}
        for row in self.rows(DISTILL):
            found.setdefault(row["pair"], []).append(row)
        return found

    @cached_property
    def final(self) -> list[Row]:
        """The rows of all arms, the nearest to the teacher first; those that all diverged last."""
        return sorted(self.rows(FINAL), key=lambda row: (math.isnan(row["kl"]), row["kl"]))


def load(tables: Tables) -> list[Distilled]:
    """Return each run's own tables."""
    return [run for run in by_run(Distilled, tables, DISTILL) if run.pairs]


def truncated(row: Row) -> bool:
    """Return whether an objective depends on k."""
    return str(row["objective"]).startswith("topk_")


def known(row: Row) -> bool:
    """Return whether a row has a gradient."""
    return math.isfinite(row["rel_bias"])
