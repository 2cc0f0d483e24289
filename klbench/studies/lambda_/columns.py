"""The table of the lambda study, from ``columns.yaml``."""

from __future__ import annotations

import pandas as pd

from klbench.columns import declared

CLOSE = 0.03
"""Lambdas that are no further apart count as one."""


def compared(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with how far apart the two lambdas of each pair are, and whether they
    count as one.
    """
    gap = (frame["lambda_value"] - frame["lambda_gradient"]).abs()
    return frame.assign(lambda_gap=gap, one_lambda=gap < CLOSE)


def _migrate(frame: pd.DataFrame, version: int) -> pd.DataFrame:
    best, other = "gradient_rel_std_gradient_best", "gradient_rel_std_value_best"
    if "noise_lost" not in frame and {best, other} <= set(frame):
        frame = frame.assign(noise_lost=frame[other] / frame[best] - 1.0)
    return compared(frame) if {"lambda_value", "lambda_gradient"} <= set(frame) else frame


TABLES = (LAMBDA,) = declared(__file__, **{"lambda": _migrate})
