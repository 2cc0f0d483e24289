"""The tables of training on language models, run by run."""

from __future__ import annotations

import math
from functools import cached_property

from klbench.report.prose import prose
from klbench.report.runs import TrainingRun
from klbench.report.tables import Row
from klbench.studies.language.columns import (
    DPO_COMPARED,
    DPO_TRAINING,
    PPO_COMPARED,
    PPO_TRAINING,
    RATERS,
)

SAY = prose(__package__)
UNTRAINED, NONE = "untrained", "none"
HOLDS, FAILS, UNTOLD, FEW = "holds", "does not hold", "not told", "too few seeds to tell"


class LmTrained(TrainingRun):
    """One run of PPO."""

    training_schema = PPO_TRAINING
    compared_schema = PPO_COMPARED

    @cached_property
    def compared(self) -> list[Row]:
        """One row for each combination, that before training first."""
        return self.rows(self.compared_schema)

    @cached_property
    def trained(self) -> list[Row]:
        """The same without the one before training."""
        return [row for row in self.compared if row["combination"] != UNTRAINED]

    def of(self, name: str) -> Row | None:
        """Return the row of a combination."""
        return next((row for row in self.compared if row["combination"] == name), None)

    def toward(self, *outcomes: str) -> list[Row]:
        """Return the combinations with these outcomes."""
        return [row for row in self.trained if row["outcome"] in outcomes]

    @cached_property
    def paid(self) -> bool:
        """Return whether training was paid by a reward model."""
        return any(not math.isnan(row["proxy"]) for row in self.compared)

    @cached_property
    def kept_raters(self) -> list[Row]:
        """Reward models as they were kept.

        Of each the report with the least loss on held-out pairs.
        """
        last = {row["seed"]: row["kept"] for row in self.rows(RATERS)}
        return [row for row in self.rows(RATERS) if row["step"] == last[row["seed"]]]


class LmPreferred(LmTrained):
    """One run of DPO."""

    training_schema = DPO_TRAINING
    compared_schema = DPO_COMPARED
