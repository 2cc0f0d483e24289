"""The tables of the staleness study."""

from __future__ import annotations

from klbench.columns import COMBINATIONS as COMBINATIONS
from klbench.columns import DESCRIBED, MEASURED, TASK
from klbench.schema import Column, Schema

STALENESS = Schema(
    "staleness",
    "One row for each pair, lag and combination: its gradient on samples of a policy that lags behind.",
    (
        *TASK,
        *DESCRIBED,
        *MEASURED,
        Column("ess", "effective sample size of whole sequences, 1 over the mean squared weight; the mean over prompts"),
        Column("ess_token", "the same of single tokens"),
    ),
)

TABLES = (STALENESS, COMBINATIONS)
