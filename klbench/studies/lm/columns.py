"""The tables of the study of completions, from ``columns.yaml``."""

from __future__ import annotations

import pandas as pd

from klbench.columns import ESTIMATORS, declared
from klbench.doctor.columns import CAUSES as CAUSES
from klbench.doctor.columns import MUST_HOLD as MUST_HOLD

POSITIONED = ("kl_qp", "k1", "k2", "k3")
"""Quantities of tokens that are also added up along the completion."""


def with_totals(tokens: pd.DataFrame) -> pd.DataFrame:
    """Return the table of positions with the sums up to each position, over all completions of a pair."""
    pairs = tokens["pair"]
    completions = tokens.groupby(pairs, sort=False)["n"].transform("first")
    sums = {
        name: (tokens[name] * tokens["n"]).groupby(pairs, sort=False).cumsum()
        for name in POSITIONED
    }
    return tokens.assign(**{f"{name}_total": total / completions for name, total in sums.items()})


def with_relative_errors(values: pd.DataFrame) -> pd.DataFrame:
    """Return the table of values with the error of a mean over 100 completions relative to the exact divergence."""
    return values.assign(
        rel_rmse_100=values["rmse_100"] / values["truth"].where(values["truth"] != 0.0)
    )


def with_inflation(prompts: pd.DataFrame) -> pd.DataFrame:
    """Return the table of prompts with the factors by which standard errors change."""
    return prompts.assign(
        same_over_se=prompts["se_same"] / prompts["se"],
        new_over_se=prompts["se_new"] / prompts["se"],
    )


DECLARED = (
    VALUES,
    TOKENS,
    TOKEN_MEANS,
    AGREEMENT,
    VERDICTS,
    TOP_TOKENS,
    LARGEST_RATIOS,
    SAMPLING,
    PROMPTS,
    CHECKS,
    DTYPE,
    TRUNCATION,
    PAIRS,
    THROUGHPUT,
    COST,
) = declared(
    __file__,
    values=lambda frame, _: with_relative_errors(frame),
    tokens=lambda frame, _: with_totals(frame),
    prompts=lambda frame, _: with_inflation(frame),
)
TABLES = (*DECLARED, ESTIMATORS, CAUSES, MUST_HOLD)
