"""A diagnosis as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from klbench.doctor.findings import Diagnosis
from klbench.doctor.kept import Counted
from klbench.doctor.reading import Ratio
from klbench.rows import Rows

VERDICTS = {True: "holds", False: "fails", None: "cannot tell"}
PARTS = 16
FEWEST = 8
"""Tokens of a range whose differences are shown."""


def tables(d: Diagnosis) -> dict[str, pd.DataFrame]:
    """Return every table that has a row."""
    files = ", ".join(d.files)
    found = {
        "diagnosis": [_about(d)],
        "causes": causes(d, files),
        "must_hold": must_hold(d, files),
        "doctor_lines": [
            *_lines("sampler", d.sampler),
            *_lines("lag", d.lag),
            *_lines("reference", d.reference),
        ],
        "masks": [dict(each) for each in d.corrections],
        "said": [
            {"kind": kind, "sentence": each}
            for kind, all_said in (
                ("alarm", d.alarms),
                ("finding", d.findings),
                ("advice", d.advice),
            )
            for each in all_said
        ],
        "doctor_steps": list(_steps(d)),
        "differences": [dict(each) for each in d.differences],
    }
    return {name: pd.DataFrame(rows) for name, rows in found.items() if rows}


def _about(d: Diagnosis) -> dict[str, Any]:
    columns = ", ".join(f"{role} = {name}" for role, name in d.columns.items())
    return {
        "files": ", ".join(d.files),
        "layout": d.layout,
        "columns": columns,
        "rollouts": d.rollouts,
        "empty": d.empty,
        "tokens": d.tokens,
        "alarm": not d.ok,
        "cause": d.cause[0].name,
        "evidence": d.cause[0].evidence,
    }


def causes(d: Diagnosis, pair: str) -> Rows:
    """Return a row for each cause, the likeliest first."""
    return [
        {
            "pair": pair,
            "place": i + 1,
            "cause": each.name,
            "score": each.score,
            "evidence": each.evidence,
        }
        for i, each in enumerate(d.cause)
    ]


def must_hold(d: Diagnosis, pair: str) -> Rows:
    """Return a row for each check."""
    return [
        {
            "pair": pair,
            "check": each.name,
            "verdict": VERDICTS[each.ok],
            "value": math.nan if each.value is None else each.value,
            "value_se": math.nan if each.se is None else each.se,
            "consequence": each.alarm,
            "message": each.message,
        }
        for each in d.checks
    ]


def _lines(part: str, found: Mapping[str, Any] | None) -> Rows:
    """Return the statistics that have an error."""
    if found is None:
        return []
    return [
        {
            "part": part,
            "quantity": name.removesuffix("_se"),
            "value": found[name.removesuffix("_se")],
            "value_low": found[f"{name.removesuffix('_se')}_low"],
            "value_high": found[f"{name.removesuffix('_se')}_high"],
            "value_se": found[name],
        }
        for name in found
        if name.endswith("_se")
    ]


def _steps(d: Diagnosis) -> Rows:
    return [
        {
            "step": row["step"],
            "line": name,
            "value": row[name],
            "value_se": row[f"{name}_se"],
            "leaves": d.left.get(name) == row["step"],
        }
        for row in d.steps
        for name in row
        if f"{name}_se" in row
    ]


def differences(counted: Counted, name: str, ratio: Ratio) -> Rows:
    """Return how far two columns differ, by the log-probability of whoever sampled, in ranges of
    as many tokens each.
    """
    x, index = counted.ratio(ratio.above, ratio.below)
    below = counted.columns[ratio.below][index]
    if x.size < FEWEST:
        return []
    edges = np.unique(np.quantile(below, np.linspace(0.0, 1.0, PARTS + 1)))
    part = np.clip(np.searchsorted(edges, below, side="right") - 1, 0, max(edges.size - 2, 0))
    rows = []
    for k in range(max(edges.size - 1, 1)):
        chosen = part == k
        if chosen.sum() < FEWEST:
            continue
        low, middle, high = np.quantile(x[chosen], (0.1, 0.5, 0.9))
        rows.append(
            {
                "ratio": name,
                "log_prob": float(np.median(below[chosen])),
                "low": float(low),
                "middle": float(middle),
                "high": float(high),
                "tokens": int(chosen.sum()),
            }
        )
    return rows
