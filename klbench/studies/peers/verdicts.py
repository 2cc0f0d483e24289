"""The values that are lost near the reference: a verdict on the functions of other libraries."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from klbench.rows import Rows, column_of, distinct, grouped
from klbench.schema import Tables
from klbench.studies.peers.columns import HERE, LOST, PEERS, VERDICTS


def _verdict(subject: str, dtype: str, near: Rows) -> dict[str, Any]:
    """Return the row of a subject and dtype, but for its place among the subjects."""
    others = [row for row in near if row["library"] != HERE]
    wrong = [row for row in others if row["median_rel_error"] >= LOST]
    own = (row["median_rel_error"] for row in near if row["library"] == HERE)
    return {
        "subject": subject,
        "dtype": dtype,
        "functions": len(others),
        "lost": len(wrong),
        "lost_by": ", ".join(distinct(wrong, "library")),
        "least_lost": min(column_of(wrong, "median_rel_error"), default=math.nan),
        "own_error": next(own, math.nan),
        "worst_error": max(column_of(near, "max_rel_error")),
    }


def verdicts(peers: pd.DataFrame) -> pd.DataFrame:
    """Return table ``peers_verdicts``: what most functions of others lose comes first."""
    near = [row for row in PEERS.rows(peers) if (row["status"], row["regime"]) == ("ok", "near")]
    groups = grouped(near, "subject", "dtype")
    found = VERDICTS.frame(
        [_verdict(subject, dtype, rows) for (subject, dtype), rows in groups.items()]
    )
    places = found.groupby("dtype")["lost"].rank(method="first", ascending=False)
    return found.assign(place=places)


def complete(tables: Tables) -> Tables:
    """Return the tables of a run of an earlier version with the verdicts."""
    if PEERS.table not in tables:
        return tables
    return {**tables, VERDICTS.table: verdicts(tables[PEERS.table])}
