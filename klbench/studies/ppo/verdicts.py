"""The verdicts on trained combinations, which follow from the numbers of the tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from klbench.metrics.seeds import SeedFrame, outcome, paired, side, verdict
from klbench.rlhf.options import compared_with
from klbench.schema import Tables, records
from klbench.studies.ppo.columns import FLOORS, OPTIMUM, REFERENCE

NEAR = 0.25
"""A fixed point is reached within this share of the distance from the start, on either side of
it.
"""


def outcome_of(row: Mapping[str, Any], reference: str) -> str:
    """Return the verdict on a row of ``final``.

    Against no training, else against the combination of comparison.
    """
    name = row["combination"]
    if side(row, "start_difference") == 1:
        found = "worse than not training"
    elif name == reference:
        found = "the comparison"
    else:
        found = verdict(
            row,
            "difference",
            f"ahead of {reference}",
            f"not told from {reference}",
            f"behind {reference}",
        )
    return outcome(row, found)


def judged_final(final: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of ``final`` with ``leads`` and ``start_outcome``."""
    return final.assign(
        leads=_leads(final), start_outcome=[_against_start(row) for row in records(final)]
    )


def _leads(final: pd.DataFrame) -> list[bool]:
    """Mark one combination of each fixed point.

    k1_reward of the optimum, else the one of least regret; all without one.
    """
    leading = {OPTIMUM: REFERENCE} if REFERENCE in set(final["combination"]) else {}
    for row in records(final.sort_values("regret", kind="stable")):
        leading.setdefault(row["fixed_point"] or row["combination"], row["combination"])
    return final["combination"].isin(list(leading.values())).tolist()


def _against_start(row: Mapping[str, Any]) -> str:
    words = ("better than not training", "not told from not training", "worse than not training")
    return verdict(row, "start_difference", *words) if row["seeds"] else ""


def judged_points(points: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of ``fixed_points`` with ``arrived``."""
    return points.assign(arrived=[_arrived(row) for row in records(points)])


def _arrived(row: Mapping[str, Any]) -> str:
    """Return whether training has come to a fixed point other than the optimum, by how much of
    the way there it went.
    """
    if row["fixed_point"] not in FLOORS:
        return ""
    near, far = (side(row, "sampled_way", of=1.0 + sign * NEAR) for sign in (-1, 1))
    if near is None or far is None:
        return "too few seeds to tell"
    return "yes" if (near, far) == (1, -1) else "no" if near == -1 or far == 1 else "not told"


def complete(tables: Tables) -> Tables:
    """Return the tables of a run of an earlier version with its verdicts, and differences from
    the start where it had none.
    """
    found = dict(tables)
    if "final" in found:
        final = found["final"]
        if "training" in found and final["start_difference"].isna().all():
            final = _with_differences(final, found["training"])
        found["final"] = judged_final(final)
    if "fixed_points" in found:
        found["fixed_points"] = judged_points(found["fixed_points"])
    return found


def _with_differences(final: pd.DataFrame, training: pd.DataFrame) -> pd.DataFrame:
    frame = SeedFrame.of(training, "combination")
    arms = ((name, frame.where(combination=name)) for name in final["combination"])
    rows = [
        paired("start_difference", arm.last("regret"), arm.first("regret"), name)
        for name, arm in arms
    ]
    final = final.assign(**pd.DataFrame(rows, index=final.index))
    reference = compared_with(final["combination"].tolist())
    return final.assign(outcome=[outcome_of(row, reference) for row in records(final)])
