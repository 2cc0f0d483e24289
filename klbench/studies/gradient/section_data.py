"""One run of the gradient study, as its page asks for it."""

from __future__ import annotations

import math
from functools import cached_property

from klbench.columns import COMBINATIONS
from klbench.report.combinations import Measured, exact
from klbench.report.tables import Row
from klbench.rows import Rows, where
from klbench.studies.gradient.columns import GRADIENTS, OPTIONS, VERDICTS

VERDICT_ORDER = (
    "no gradient",
    "another divergence",
    "no divergence",
    "right on some pairs",
    "right",
)
"""Verdicts as the page goes through them."""
ALIKE_DIGITS = 9
"""Decimals to which biases and noises differ: what differs by rounding keeps the table's order."""


class Gradients(Measured):
    """One run: what was measured, the verdicts on it, and the settings of trainers."""

    main = GRADIENTS
    combinations = COMBINATIONS

    @cached_property
    def verdicts(self) -> Rows:
        """Verdicts, those of a kind together, and within a kind the worst first."""
        return sorted(self.rows(VERDICTS), key=_gravity)

    @cached_property
    def right(self) -> Rows:
        """Verdicts on those whose mean is the gradient of KL(q‖p) on every pair, the least noisy
        in training first.
        """
        rows = where(self.verdicts, verdict="right")
        return sorted(rows, key=lambda row: row["place"] if row["place"] >= 1 else len(rows) + 1)

    @cached_property
    def typed(self) -> Rows:
        """Verdicts on the combinations that the run was asked for by name."""
        return [row for row in self.verdicts if row["typed"]]

    @cached_property
    def options(self) -> Rows:
        """The settings of trainers, and of papers, as their verdicts go."""
        return sorted(self.rows(OPTIONS), key=_gravity)

    @cached_property
    def ends(self) -> list[str]:
        """The pair near its reference and the one far from it; one, where they are the same."""
        titles = dict.fromkeys(row[end] for row in self.verdicts[:1] for end in ("near", "far"))
        # A page over several runs adds the run to the pairs of the main table.
        return [
            pair
            for title in titles
            for pair in self.pairs
            if pair == title or pair.startswith(f"{title} [")
        ]

    @cached_property
    def named_ends(self) -> tuple[list[str], list[str]]:
        """The labels of these pairs, and their titles."""
        return [self.pair_label(pair) for pair in self.ends], self.ends

    @cached_property
    def at(self) -> dict[tuple[str, str], Row]:
        """Rows by combination and pair."""
        return {(row["combination"], row["pair"]): row for row in self.measured}

    def right_on(self, combination: str) -> list[str]:
        """Return the series, or pairs without one, on which a combination's mean is the gradient
        of KL(q‖p).
        """
        exact_rows = [
            row
            for row in where(self.measured, combination=combination)
            if row["method"] != "sampling"
        ]
        return list(
            dict.fromkeys(
                row["series"] or self.pair_label(row["pair"]) for row in exact_rows if exact(row)
            )
        )


def _gravity(row: Row) -> tuple[int, float, float]:
    off, noise = (
        math.inf if math.isnan(each) else round(each, ALIKE_DIGITS)
        for each in (-row["rel_bias_far"], row["rel_std_far"])
    )
    return VERDICT_ORDER.index(row["verdict"]), off, noise
