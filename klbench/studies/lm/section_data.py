"""The tables of a run on completions, as its page needs them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from klbench.report.runs import RunTables
from klbench.report.tables import Row
from klbench.rows import distinct
from klbench.studies.lm.columns import AGREEMENT, PAIRS, TOKENS, VALUES, VERDICTS

TARGET = "KL(q‖p)"
EXACT = ("rao_blackwell", "rao_blackwell_weighted")
MOST_PAIRS = 8
MOST_ESTIMATORS = 14
_VISIBLE = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"})


def finite(*values: float) -> bool:
    """Tell whether all of them are finite."""
    return all(map(math.isfinite, values))


def visible(text: Any) -> str:
    """Return a token's text with its spaces and line ends shown, and what has no glyph as its
    number.
    """
    return "".join(
        each if each.isprintable() else f"‹{ord(each):x}›" for each in text.translate(_VISIBLE)
    )


@dataclass(frozen=True, eq=False)
class Completions(RunTables):
    """The tables of one run, or of several together, whose pairs differ by their names."""

    @cached_property
    def pairs(self) -> list[str]:
        """The pairs that have completions, in the order of the run."""
        return distinct(self.rows(TOKENS), "pair")

    @cached_property
    def about(self) -> dict[str, Row]:
        """The row of each pair in the table of pairs."""
        return self.keyed(PAIRS, "pair", self.pairs)

    @cached_property
    def verdicts(self) -> dict[str, Row]:
        """The verdict on each pair."""
        return self.keyed(VERDICTS, "pair", self.pairs)

    @cached_property
    def agreement(self) -> dict[str, Row]:
        """The comparison of k1 and k3 on each pair."""
        return self.keyed(AGREEMENT, "pair", self.pairs)

    @cached_property
    def unsound(self) -> list[str]:
        """The labels of pairs whose completions fail a check of their own."""
        return [
            self.labels[pair]
            for pair in self.pairs
            if self.verdicts[pair]["ratios"] and not self.verdicts[pair]["sound"]
        ]

    @property
    def recorded(self) -> bool:
        """True where all completions were read from files."""
        return all(row["kind"] == "recorded" for row in self.about.values())

    @cached_property
    def labels(self) -> dict[str, str]:
        """Pairs as a figure names them: without what all of them share."""
        if len(self.pairs) == 1:
            return {self.pairs[0]: self.pairs[0]}
        parts = [pair.split(", ") for pair in self.pairs]
        shared = set(parts[0]).intersection(*parts[1:])
        kept = [", ".join(part for part in each if part not in shared) for each in parts]
        references = {each.partition(" ‖ ")[2].partition(", ")[0] for each in kept}
        if len(references) == 1:  # of models: the policy alone
            kept = [
                each.replace(f" ‖ {next(iter(references))}", "").removeprefix("LM ")
                for each in kept
            ]
        distinct = len(set(kept)) == len(kept) and all(kept)
        return dict(zip(self.pairs, kept if distinct else self.pairs, strict=True))

    @cached_property
    def values(self) -> list[Row]:
        """The rows of values that hold a number."""
        return [row for row in self.rows(VALUES) if finite(row["mean"])]

    @cached_property
    def names(self) -> list[str]:
        """All estimators that were measured, in the order of the run."""
        return distinct(self.values, "estimator")

    @cached_property
    def drawn(self) -> list[str]:
        """The estimators that figures show."""
        return self.names[:MOST_ESTIMATORS]

    def measured(self, pair: str, per: str = "sequence") -> list[Row]:
        """Return a pair's rows of values of the estimators that figures show."""
        return [
            row
            for row in self.values
            if row["pair"] == pair and row["per"] == per and row["estimator"] in self.drawn
        ]

    def at(self, pair: str, estimator: str, per: str = "sequence") -> Row | None:
        """Return a pair's row of values of an estimator of each token's log-ratio."""
        found = (
            row
            for row in self.measured(pair, per)
            if row["estimator"] == estimator and row["level"] == "token"
        )
        return next(found, None)

    def saving(self, name: str) -> list[float]:
        """Return a saving of completions on each pair where it is known."""
        return [row[name] for row in self.verdicts.values() if finite(row[name])]


def spread(found: Sequence[float], digits: int = 2) -> tuple[float, ...]:
    """Return the least and the largest with so many digits, or one number where both are the
    same.
    """
    return tuple(dict.fromkeys(float(f"{each:.{digits}g}") for each in (min(found), max(found))))
