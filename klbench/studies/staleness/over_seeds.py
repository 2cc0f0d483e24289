"""Bias and noise of each combination over pairs that differ by their seed."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from klbench.metrics import seeds
from klbench.rows import column_of, distinct, finite, grouped, rising
from klbench.studies.gradient.tables import QP, Row, matches
from klbench.studies.staleness.columns import OVER_SEEDS, STALENESS


def over_seeds(staleness: pd.DataFrame, typed: Mapping[str, str]) -> pd.DataFrame:
    """Return table ``over_seeds``, without a row where a series has one pair at a lag.

    The noise is that of one sample over the length of the exact gradient, and differs between pairs
    by factors: its mean is geometric, and so is that of its ratio to the quietest combination that
    is right on every pair, taken pair by pair.
    """
    rows = finite(STALENESS.rows(staleness), "staleness")
    result = []
    for series, lag in dict.fromkeys((row["series"], row["staleness"]) for row in rows):
        here = [row for row in rows if (row["series"], row["staleness"]) == (series, lag)]
        found = grouped(here, "combination")
        pairs = distinct(here, "pair")
        if len(pairs) < 2 or any(len(curve) != len(pairs) for curve in found.values()):
            continue
        noise = {
            name: np.array(column_of(rising(curve, "pair"), "rel_std"))
            for name, curve in found.items()
        }
        right = [name for name, curve in found.items() if all(matches(row, QP) for row in curve)]
        least = min(right, key=lambda name: _mean(noise[name]), default="")
        for name, curve in found.items():
            ratio = noise[name] / noise[least] if least else np.full(len(pairs), math.nan)
            result.append(
                {
                    "series": series,
                    "staleness": lag,
                    "combination": name,
                    "typed": typed.get(name, ""),
                    "placement": curve[0]["placement"],
                    "correction": curve[0]["correction"],
                    "baseline": curve[0]["baseline"],
                    "pairs": len(pairs),
                    "right_pairs": sum(matches(row, QP) for row in curve),
                    "rel_bias": max(_bias(row) for row in curve),
                    **_geometric("rel_std", noise[name], series, name),
                    **_geometric("over_least", ratio, series, name),
                }
            )
    return OVER_SEEDS.frame(result)


def _bias(row: Row) -> float:
    return 0.0 if matches(row, QP) else float(row["rel_bias"])


def _mean(values: np.ndarray) -> float:
    with np.errstate(divide="ignore"):
        return float(np.exp(np.log(values).mean()))


def _geometric(column: str, values: np.ndarray, *names: str) -> dict[str, float]:
    """Return a geometric mean and its 95 % interval."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = seeds.summary(column, np.log(values), *names)
    return {name: math.exp(value) for name, value in found.items()}
