"""One run of the study over length, as its page asks for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property

from klbench.report.runs import RunTables, stored
from klbench.report.tables import Row
from klbench.rows import Rows, distinct, rising, where
from klbench.studies.horizon.columns import (
    BOUNDS,
    CROSSINGS,
    FAMILIES,
    GAPS,
    HORIZON,
    LEVELS,
    MARKS,
    SAMPLED,
)

TRAINERS: Mapping[str, str] = {
    "k3_ratio_loss": "TRL GRPO: k3 × token ratio",
    "k3_loss": "GRPO elsewhere: k3 in the loss",
    "k2_loss": "verl k3+: k2 in the loss",
    "k1_reward_to_go": "OpenRLHF: k1 in the reward",
    "k1_reward_token_ratio": "PPO: the same × token ratio",
    "k1/reward_to_go/token/sequence_ratio": "the same × sequence ratio",
    "full_kl/full_with_score/token/decision_ratio": "exact KLs × ratios so far",
    "k1_reward_leave_one_out": "TRL RLOO: less the others' mean",
}
"""The combinations that are drawn first, and the name that a trainer or a reader has for each."""
ROUNDING = 1e-9
LEADING = ("mixing", "lognormal", "mode", "absorbing", "gru", "lm")
TOKEN_LOSS = "full_loss"


class Horizon(RunTables):
    """One run: what was measured, series by series."""

    main = HORIZON

    @cached_property
    def measured(self) -> Rows:
        """All rows by rising length."""
        return rising(self.rows(HORIZON), "tokens")

    @cached_property
    def series(self) -> list[str]:
        """The series, the ones that say most first."""
        found = {row["series"] for row in self.measured}
        return sorted(found, key=lambda name: (LEADING.index(name), name))

    def settings(self, series: str) -> tuple[float, list[float]]:
        """Return the middle KL a token of a series, and the lags a token there."""
        rows = where(self.measured, series=series)
        if series == "lm":
            kl = rows[-1]["kl_token"]
        else:
            kls = sorted(distinct(rows, "kl_token"))
            rows = where(rows, kl_token=kls[len(kls) // 2])
            kl = kls[len(kls) // 2]
        return kl, sorted(distinct(rows, "lag_token"))

    def curve(self, series: str, combination: str, kl: float, lag: float) -> Rows:
        """Return the rows of one line; language models have the KL that they have."""
        return [
            row
            for row in self.measured
            if (row["series"], row["combination"], row["lag_token"]) == (series, combination, lag)
            and (series == "lm" or row["kl_token"] == kl)
        ]

    @cached_property
    def leading(self) -> tuple[str, float, float]:
        """The series, KL and lag a token of the first figure: the smallest lag that is none."""
        series = self.series[0]
        kl, lags = self.settings(series)
        return series, kl, next((lag for lag in lags if lag > 0.0), 0.0)

    @cached_property
    def drawn(self) -> dict[str, Rows]:
        """The lines of the first figure by what they are called."""
        series, kl, lag = self.leading
        found = {label: self.curve(series, name, kl, lag) for name, label in TRAINERS.items()}
        if not any(found.values()):
            names = distinct(self.measured, "combination")
            found = {name: self.curve(series, name, kl, lag) for name in names[:8]}
        return {label: rows for label, rows in found.items() if rows}

    families = stored(FAMILIES)
    """The growth of each series."""
    gaps = stored(GAPS)
    """The part that is left out within so many tokens."""
    levels = stored(LEVELS)
    """Random chains."""
    crossings = stored(CROSSINGS)
    """The lengths at which weights cross."""
    bounds = stored(BOUNDS)
    """Bounds beside the truth."""
    marks = stored(MARKS)
    """Known marks."""
    sampled = stored(SAMPLED)
    """Standard errors of what was sampled."""

    def growing(self) -> Row | None:
        """Return the family whose bias grows most, where one does."""
        rows = [row for row in where(self.families, verdict="grows") if row["series"] != "lm"]
        return max(rows, key=lambda row: float(row["last"] / row["first"]), default=None)

    def language(self) -> Row | None:
        """Return how the language models grow."""
        return next(iter(where(self.families, series="lm")), None)


def biased(row: Row) -> bool:
    """Return whether a row has a bias that is more than rounding."""
    return math.isfinite(row["rel_bias"]) and row["rel_bias"] > ROUNDING
