"""The table of the throughput study."""

from __future__ import annotations

import pandas as pd

from klbench.schema import Column, Schema, integer, text


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


THROUGHPUT = Schema(
    "throughput",
    "One row for each estimator, library, direction and dtype: terms a second, over timed blocks of"
    " calls.",
    (
        text("estimator", "name in klbench", "Estimator"),
        text("backend", "the array library"),
        text("pass", "forward, or forward and backward"),
        text("dtype", "format of the numbers"),
        text("device", "where it ran"),
        integer("samples", "terms in a call"),
        Column("terms_per_second", "median over the blocks", "1/s"),
        Column("terms_per_second_q25", "first quartile over the blocks", "1/s"),
        Column("terms_per_second_q75", "third quartile over the blocks", "1/s"),
        integer("repeats", "timed blocks"),
        integer(
            "rank",
            "place by the median among the estimators of this library, direction and dtype; 1: the"
            " fastest",
            since=1,
        ),
        Column("times_slower", "median of the fastest one over this one's", since=1),
    ),
    migrate=lambda frame, _: ranked(frame),
)

TABLES = (THROUGHPUT,)
