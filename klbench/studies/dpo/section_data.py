"""The tables of the DPO study, run by run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

from klbench.report.blocks import Tables
from klbench.report.prose import prose
from klbench.report.runs import RunTables, by_run, stopped, stored
from klbench.report.tables import Row
from klbench.rows import Rows, distinct, keyed, rising, where
from klbench.studies.dpo.columns import CHIPO, DPO_FINAL, DPO_OPTIMA, TRAINING

SAY = prose(__package__)
STANDARD = "dpo"
SYMBOLS = {
    "kl_qp": "KL(q‖p)",
    "kl_pq": "KL(p‖q)",
    "js": "JS(q, p)",
    "hellinger": "H²(q, p)",
    "chi2": "χ²(p‖q)",
    CHIPO: "KL(q‖p) + χ²(q‖p)/2",
}


class Preferred(RunTables):
    """One run of DPO."""

    final = stored(DPO_FINAL)
    """One row for each loss and number of pairs."""

    @cached_property
    def losses(self) -> list[str]:
        """Names, the standard first."""
        return distinct(self.final, "arm")

    @cached_property
    def sizes(self) -> list[float]:
        """Numbers of pairs, the infinite one last."""
        return sorted(distinct(self.final, "pairs"))

    @cached_property
    def middle(self) -> float:
        """The finite number of pairs at which losses are compared."""
        finite = [size for size in self.sizes if math.isfinite(size)]
        return finite[len(finite) // 2] if finite else math.inf

    @cached_property
    def optima(self) -> dict[str, Row]:
        """Exact optima on all pairs, by loss."""
        return keyed(self.rows(DPO_OPTIMA), "arm")

    @cached_property
    def start(self) -> float:
        """KL(q‖q*) of the reference."""
        return float(self.optima[STANDARD]["start"]) if STANDARD in self.optima else math.nan

    @cached_property
    def diverged(self) -> list[tuple[str, float, int, str]]:
        """Loss, number of pairs, seed and status of each replica that was stopped."""
        return stopped(self.rows(TRAINING), "arm", "pairs", "seed")

    def of(self, loss: str) -> Rows:
        """Return the rows of a loss, the fewest pairs first."""
        return rising(where(self.final, arm=loss), "pairs")

    def at(self, size: float) -> Rows:
        """Return the rows of all losses with so many pairs."""
        return where(self.final, pairs=size)


def symbol(divergence: str) -> str:
    """Return a divergence as the page writes it; its name where it has no symbol."""
    return SYMBOLS.get(divergence, divergence)


def load(tables: Tables) -> Sequence[Preferred]:
    """Return the tables of each run."""
    return by_run(Preferred, tables, DPO_FINAL)
