"""One run of the staleness study, as its page asks for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from klbench.columns import COMBINATIONS
from klbench.report.combinations import Measured, joined
from klbench.rows import Rows, column_of, distinct, finite, rising, where
from klbench.studies.staleness.columns import CHOICES, CORRECTIONS, OVER_SEEDS, STALENESS

VERDICTS = ("right at every lag", "right without a lag", "off at every lag")
"""The verdicts in the order of the page."""


class Staleness(Measured):
    """One run: what was measured, and the verdicts on it."""

    main = STALENESS
    combinations = COMBINATIONS

    @cached_property
    def over_seeds(self) -> Rows:
        """Rows over several seeds of the first series at its largest lag, the quietest right
        ones first.
        """
        rows = self.rows(OVER_SEEDS)
        first = where(rows, series=rows[0]["series"]) if rows else []
        here = where(first, staleness=max(column_of(first, "staleness"), default=0.0))
        return sorted(here, key=lambda row: (row["right_pairs"] < row["pairs"], row["rel_std"]))

    @cached_property
    def lagging(self) -> list[Lagging]:
        """Each pair by itself."""
        rows = self.rows(CORRECTIONS)
        found = [Lagging(self, pair, where(rows, pair=pair)) for pair in self.pairs]
        return [each for each in found if each.corrections]


@dataclass(frozen=True, eq=False)
class Lagging:
    """One pair at several lags, ``KL(q‖μ)`` in nats."""

    run: Staleness
    pair: str
    corrections: Rows

    @property
    def label(self) -> str:
        """The label of the pair."""
        return self.run.pair_label(self.pair)

    @cached_property
    def rows(self) -> Rows:
        """Rows of the pair by rising lag."""
        rows = finite(where(self.run.measured, pair=self.pair), "staleness")
        return rising(rows, "staleness")

    @cached_property
    def lags(self) -> list[float]:
        """Rising lags."""
        return distinct(self.rows, "staleness")

    def curve(self, combination: str) -> Rows:
        """Return the rows of a combination by rising lag."""
        return where(self.rows, combination=combination)

    @cached_property
    def choices(self) -> Rows:
        """The combinations with the least error, by lag and batch."""
        return where(self.run.rows(CHOICES), pair=self.pair)

    def groups(self, verdict: str) -> list[Rows]:
        """Return the verdicts of a kind, those with equal numbers together, the best at the
        largest lag first.
        """
        key = "rel_std_last" if verdict == VERDICTS[0] else "rel_bias_last"
        found = joined(where(self.corrections, verdict=verdict))
        return sorted(found.values(), key=lambda rows: (math.isnan(rows[0][key]), rows[0][key]))

    @cached_property
    def ordered(self) -> list[Rows]:
        """Groups of all kinds."""
        return [rows for verdict in VERDICTS for rows in self.groups(verdict)]
