"""The tables of the value study, from ``columns.yaml``."""

from __future__ import annotations

import pandas as pd

from klbench.columns import declared

FEW_SAMPLES = 100
"""The number of values from which errors count as normal.

Student's quantile is 1.98, close enough to 1.96.
"""
MAIN_TARGET = "KL(q‖p)"
ALL, UNBIASED, TWO = "all", "unbiased", "k1 or k3"
"""The groups of estimators that are ranked."""
PLAIN = (
    "k1",
    "k2",
    "k3",
    "k_lambda",
    "k_fitted",
    "k1_weighted",
    "k3_weighted",
    "k2_weighted",
    "k1_self_normalized",
)
QUANTILES = (0.005, 0.025, 0.05, 0.25, 0.5, 0.75, 0.95, 0.975, 0.995)
"""The quantiles of the errors of batches."""


def plainness(name: str) -> tuple[int, int, str]:
    """Return a key that sorts the names of estimators.

    The plain ones first, then the short ones.
    """
    return (PLAIN.index(name) if name in PLAIN else len(PLAIN), len(name), name)


def common_batch(values: pd.DataFrame) -> int:
    """Return the smallest batch size at which the most estimators were measured.

    All of them, as a rule.
    """
    measured = values[~values["status"].str.startswith("skipped")]
    measured = values if measured.empty else measured
    names = measured.groupby("batch")["estimator"].nunique()
    return min((int(batch) for batch in names.index[names == names.max()]), default=1)


def quantile(share: float) -> str:
    """Return the name of the column that holds a quantile."""
    return f"q{100 * share:g}"


TABLES = VALUES, DIFFERENCES, ERRORS, PAIRS, ESTIMATORS, RANGES = declared(__file__)
