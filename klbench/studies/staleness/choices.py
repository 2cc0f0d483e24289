"""The combination to use below each batch: the least error of bias and noise together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from klbench.rows import grouped, where
from klbench.studies.gradient.tables import QP, Row, first_alike, matches
from klbench.studies.staleness.columns import CHOICES, STALENESS, error_in, to_the_sampler

AMONG = ("all", "sampled")


def bias(row: Row) -> float:
    """Return the bias of a row, 0 where it is rounding."""
    return 0.0 if matches(row, QP) else float(row["rel_bias"])


def error(row: Row, batch: float) -> float:
    """Return the error of a row, 0 where its bias is rounding."""
    return error_in(batch, bias(row), row["rel_std"])


def least(rows: Sequence[Row]) -> Iterator[tuple[Row, float, float]]:
    """Yield the row of the least error for each range of batches, from the smallest.

    Row, first batch, last batch.

    In ``1 / batch`` squared errors are lines: what is left of them is their lower envelope.
    """
    start = 1.0
    while True:
        best = min(rows, key=lambda row: (error(row, start), bias(row)))
        better = [row for row in rows if bias(row) < bias(best)]
        ends = {id(row): _last(best, row) for row in better}
        end = min((each for each in ends.values() if each >= start), default=math.inf)
        yield best, start, end
        if math.isinf(end):
            return
        start = end + 1.0


def _last(row: Row, other: Row) -> float:
    """Return the largest batch in which a row errs no more than one with less bias."""
    gain = other["rel_std"] ** 2 - row["rel_std"] ** 2
    return math.floor(max(gain, 0.0) / (bias(row) ** 2 - bias(other) ** 2))


def choices(staleness: pd.DataFrame, typed: Mapping[str, str]) -> pd.DataFrame:
    """Return table ``choices``.

    ``typed`` holds the name by which the run was asked for a combination.
    """
    rows = [
        row
        for row in STALENESS.rows(staleness)
        if all(math.isfinite(row[key]) for key in ("staleness", "rel_bias", "rel_std"))
        and not to_the_sampler(row)
    ]
    same = first_alike(grouped(rows, "combination"), ("rel_bias", "rel_std"))
    result = []
    for pair, lag in dict.fromkeys((row["pair"], row["staleness"]) for row in rows):
        here = [
            row
            for row in rows
            if (row["pair"], row["staleness"]) == (pair, lag)
            and same[row["combination"]] == row["combination"]
        ]
        plain = where(here, correction="none")
        for among in AMONG:
            able = [
                row for row in here if among == "all" or not row["placement"].startswith("full")
            ]
            rivals = [row for row in plain if row in able]
            for best, start, end in least(able) if able else ():
                result.append(
                    {
                        "pair": pair,
                        "series": best["series"],
                        "staleness": lag,
                        "among": among,
                        "batch_from": int(start),
                        "batch_to": end,
                        "combination": best["combination"],
                        "typed": typed.get(best["combination"], ""),
                        "correction": best["correction"],
                        "rel_bias": bias(best),
                        "rel_std": best["rel_std"],
                        "rel_error_from": error(best, start),
                        "plain_up_to": _unweighted(best, rivals),
                    }
                )
    return CHOICES.frame(result)


def _unweighted(best: Row, rivals: Sequence[Row]) -> float:
    """Return the largest batch in which some combination without a weight errs no more."""
    if best["correction"] == "none":
        return math.inf
    return max(
        (
            _last(row, best)
            if bias(row) > bias(best)
            else math.inf
            if error(row, 1e9) <= error(best, 1e9)
            else 0.0
            for row in rivals
        ),
        default=0.0,
    )
