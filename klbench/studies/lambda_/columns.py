"""The table of the lambda study, from ``columns.yaml``."""

from __future__ import annotations

import pandas as pd

from klbench.columns import declared


def _migrate(frame: pd.DataFrame, version: int) -> pd.DataFrame:
    best, other = "gradient_rel_std_gradient_best", "gradient_rel_std_value_best"
    return (
        frame.assign(noise_lost=frame[other] / frame[best] - 1.0)
        if {best, other} <= set(frame)
        else frame
    )


TABLES = (LAMBDA,) = declared(__file__, **{"lambda": _migrate})
