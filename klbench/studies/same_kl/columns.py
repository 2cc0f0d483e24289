"""The table of the same_kl study, from ``columns.yaml``."""

from __future__ import annotations

import pandas as pd

from klbench.columns import declared

GRADIENTS = ("k1_reward", "k1_reward_leave_one_out", "k2_loss", "k3_loss")
"""Combinations whose gradients are measured on every pair."""


def predicted(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table of shapes with the winner that χ²(p‖q) and 2J name."""
    if not {"chi2", "two_j"} <= set(frame):
        return frame
    return frame.assign(
        predicted=["k3" if below else "k1" for below in frame["chi2"] < frame["two_j"]]
    )


TABLES = (SHAPES,) = declared(__file__, shapes=lambda frame, _: predicted(frame))
