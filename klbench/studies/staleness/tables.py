"""The effect of a lag on each combination, as it follows from the table of staleness."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from klbench.rows import column_of, finite, grouped, rising, where
from klbench.schema import Tables
from klbench.studies.gradient.tables import QP, Row, first_alike, matches
from klbench.studies.staleness.choices import choices
from klbench.studies.staleness.columns import CHOICES, CORRECTIONS, STALENESS


def beaten_up_to(biased: Row, exact: Row) -> float:
    """Return the largest batch in which the biased one errs less than the exact one.

    Error² = bias² + noise² / batch.
    """
    gain = exact["rel_std"] ** 2 - biased["rel_std"] ** 2
    if matches(biased, QP) or biased["rel_bias"] == 0:
        return math.inf if gain > 0 else 0.0
    return float(max(gain, 0.0) / biased["rel_bias"] ** 2)


def _verdict(curve: Sequence[Row]) -> str:
    right = [matches(row, QP) for row in curve]
    return (
        "right at every lag"
        if all(right)
        else "right without a lag"
        if right[0]
        else "off at every lag"
    )


def _quietest(rows: Iterable[Row]) -> Row | None:
    return min(
        finite(rows, "rel_std"),
        key=lambda row: row["rel_std"],
        default=None,
    )


def corrections(staleness: pd.DataFrame, typed: Mapping[str, str]) -> pd.DataFrame:
    """Return table ``corrections``.

    ``typed`` holds the name by which the run was asked for a combination.
    """
    rows = finite(STALENESS.rows(staleness), "staleness")
    same = first_alike(grouped(rows, "combination"), ("rel_bias", "rel_std"))
    result = []
    for pair in dict.fromkeys(column_of(rows, "pair")):
        found = grouped(where(rows, pair=pair), "combination")
        curves = {name: rising(curve, "staleness") for name, curve in found.items()}
        right = [curve[-1] for curve in curves.values() if _verdict(curve) == "right at every lag"]
        rivals = {
            "best": _quietest(right),
            "best_sampled": _quietest(r for r in right if not r["placement"].startswith("full")),
        }
        for name, curve in curves.items():
            first, last = curve[0], curve[-1]
            result.append(
                {
                    "pair": pair,
                    "series": first["series"],
                    "combination": name,
                    "typed": typed.get(name, ""),
                    "placement": first["placement"],
                    "correction": first["correction"],
                    "verdict": _verdict(curve),
                    "same_as": same[name],
                    "lag": last["staleness"],
                    "balance_batch": last["balance_batch"],
                    "rel_bias_first": first["rel_bias"],
                    "rel_bias_last": last["rel_bias"],
                    "rel_std_first": first["rel_std"],
                    "rel_std_last": last["rel_std"],
                    **{
                        column: rival["combination"] if rival else ""
                        for column, rival in zip(
                            ("rival", "sampled_rival"), rivals.values(), strict=True
                        )
                    },
                    **{
                        f"{word}_up_to": beaten_up_to(last, rival) if rival else math.nan
                        for word, rival in rivals.items()
                    },
                }
            )
    return CORRECTIONS.frame(result)


def complete(tables: Tables) -> Tables:
    """Return the tables of a run of an earlier version with the verdicts on corrections."""
    if STALENESS.table not in tables:
        return tables
    found = tables[STALENESS.table]
    more = {CHOICES.table: choices(found, {})} | dict(tables)
    return {**more, CORRECTIONS.table: corrections(found, {})}
