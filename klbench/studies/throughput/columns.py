"""The table of the throughput study, from ``columns.yaml``."""

from __future__ import annotations

import pandas as pd

from klbench.columns import declared


def ranked(timings: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the place of each estimator among those of its setting, by the
    median.
    """
    alike = timings.groupby(["device", "samples", "backend", "pass", "dtype"], sort=False)
    rates = alike["terms_per_second"]
    return timings.assign(
        rank=rates.rank(method="first", ascending=False),
        times_slower=rates.transform("max") / timings["terms_per_second"],
    )


TABLES = (THROUGHPUT,) = declared(__file__, throughput=lambda frame, _: ranked(frame))
