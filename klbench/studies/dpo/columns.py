"""The tables of the DPO study, from ``columns.yaml``."""

from __future__ import annotations

import pandas as pd

from klbench.columns import declared
from klbench.rlhf.options import CHIPO

__all__ = ["CHIPO"]


def seeds_by_kind(frame: pd.DataFrame, version: int) -> pd.DataFrame:
    """Return ``dpo_final`` with a number of seeds for each difference.

    There was one for all three, which was theirs.
    """
    if "difference_seeds" not in frame:
        return frame
    seeds = frame["difference_seeds"]
    return frame.drop(columns="difference_seeds").assign(
        last_difference_seeds=seeds, best_difference_seeds=seeds, stopped_difference_seeds=seeds
    )


TABLES = (
    TRAINING,
    DPO_FINAL,
    DPO_CURVES,
    DPO_RATES,
    DPO_OPTIMA,
    DPO_ESTIMATES,
    DPO_SEEN,
    KTO_POINTS,
) = declared(__file__, dpo_final=seeds_by_kind)
