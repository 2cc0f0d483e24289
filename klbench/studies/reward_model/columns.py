"""The tables of the reward-model study, from ``columns.yaml``."""

from __future__ import annotations

import pandas as pd
from scipy.special import stdtrit

from klbench.columns import declared

GOLD = "gold"
"""Stands among the proxies for the true reward."""


def _with_ends(frame: pd.DataFrame, version: int) -> pd.DataFrame:
    """Turn the standard errors of version 0 into 95 % intervals.

    They are those of means over seeds, which are few: the half width is Student's t for ``seeds -
    1`` times the error. Version 1 leans to where values are skewed, which a standard error cannot
    tell.
    """
    quantile = stdtrit(frame["seeds"] - 1, 0.975)
    for name in ("gold_gain", "k1_error", "k3_error"):
        if (error := f"{name}_se") in frame:
            half = quantile * frame[error]
            frame = frame.assign(
                **{f"{name}_low": frame[name] - half, f"{name}_high": frame[name] + half}
            ).drop(columns=error)
            if name != "gold_gain":
                frame[f"{name}_seeds"] = frame["seeds"].where(frame[name].notna(), 0)
    return frame


TABLES = (
    OVEROPTIMISATION,
    OVEROPTIMISATION_BY_SEED,
    PEAKS,
    EQUAL_KL,
    REWARD_MODELS,
    REWARD_MODELS_BY_SEED,
    CALIBRATION,
    TRAINING,
) = declared(__file__, overoptimisation=_with_ends)
