"""The verdict on each combination, and on each option of a trainer, as it follows from the table
of gradients.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from klbench import trainers
from klbench.columns import COMBINATIONS
from klbench.rows import finite, grouped, keyed, rising, where
from klbench.schema import Tables
from klbench.studies.gradient.columns import GRADIENTS, OPTIONS, VERDICT, VERDICTS

Row = Mapping[str, Any]

QP, PQ, DIFFERENCE, NOTHING = "KL(q‖p)", "KL(p‖q)", "KL(q‖p) - KL(p‖q)", "0"
ROUNDING = 1e-8
"""Difference, in lengths of the exact gradient, below which two numbers are the same."""
SAME = 1e-6
"""Relative difference below which they are the same."""
TRAINERS = (
    *dict.fromkeys(each.title.partition(" ")[0] for each in trainers.TRAINERS),
    "DeepSeek-V3.2",
    "InstructGPT",
)
"""Whose settings are told apart: TRL's GRPO and RLOO are one's."""


def matches(row: Row, target: str) -> bool:
    """Return whether the mean gradient of a row is that of a divergence."""
    return target in str(row["matches"]).split(" = ")


def first_alike(found: Mapping[str, Sequence[Row]], measures: Sequence[str]) -> dict[str, str]:
    """Return for each combination the first one that has the same measures on every pair and at
    every lag.
    """
    numbers = {
        name: {(row["pair"], row["staleness"]): [row[each] for each in measures] for row in rows}
        for name, rows in found.items()
    }
    leaders: list[str] = []
    result = {}
    for name in found:
        result[name] = next(
            (each for each in leaders if _alike(numbers[each], numbers[name])), name
        )
        if result[name] == name:
            leaders.append(name)
    return result


def _alike(one: Mapping[Any, Sequence[float]], other: Mapping[Any, Sequence[float]]) -> bool:
    return one.keys() == other.keys() and all(
        (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=SAME, abs_tol=ROUNDING)
        for at in one
        for a, b in zip(one[at], other[at], strict=True)
    )


def ends(rows: Iterable[Row]) -> tuple[str, str]:
    """Return the nearest and the furthest pair of the series that has most pairs.

    Empty where there is none.
    """
    series: dict[str, dict[str, float]] = {}
    pairs = keyed(rows, "pair")
    for pair, row in pairs.items():
        if math.isfinite(row["kl_qp"]):
            series.setdefault(row["series"], {})[pair] = row["kl_qp"]
    if not series:
        return next(((pair, pair) for pair in pairs), ("", ""))
    longest = max(series.values(), key=len)
    return min(longest, key=longest.__getitem__), max(longest, key=longest.__getitem__)


def _verdict(rows: Sequence[Row]) -> tuple[str, str]:
    """Return the verdict on a combination, and the divergence whose gradient it has on every
    pair.
    """
    target = next(
        (each for each in (QP, PQ, NOTHING, DIFFERENCE) if all(matches(row, each) for row in rows)),
        "",
    )
    if target:
        return {QP: "right", NOTHING: "no gradient"}.get(target, "another divergence"), target
    # A noisy mean may match by accident.
    somewhere = any(matches(row, QP) and row["method"] != "sampling" for row in rows)
    return "right on some pairs" if somewhere else "no divergence", ""


def verdicts(gradients: pd.DataFrame, typed: Mapping[str, str]) -> pd.DataFrame:
    """Return table ``verdicts``.

    ``typed`` holds the name by which the run was asked for a combination.
    """
    found = grouped(GRADIENTS.rows(gradients), "combination")
    near, far = ends(row for rows in found.values() for row in rows)
    same = first_alike(found, ("rel_bias", "rel_std", "total_rel_std"))
    result = []
    for name, rows in found.items():
        verdict, target = _verdict(rows)
        at = keyed(rows, "pair")
        exact = [
            row
            for row in rows
            if matches(row, QP) and (verdict == "right" or row["method"] != "sampling")
        ]
        measured = {
            f"{measure}_{end}": at[pair][measure] if pair in at else math.nan
            for measure in ("rel_bias", "rel_std", "total_rel_std")
            for end, pair in (("near", near), ("far", far))
        }
        result.append(
            {
                "combination": name,
                "typed": typed.get(name, ""),
                "placement": rows[0]["placement"],
                "verdict": verdict,
                "target": target,
                "pairs": len(rows),
                "right_pairs": len(exact),
                "against_pairs": sum(row["cosine"] < 0 and row["status"] == "ok" for row in rows),
                "agreeing_pairs": sum(row["status"] != "claim broken" for row in rows),
                "same_as": same[name],
                "near": near,
                "far": far,
                **measured,
                "place": math.nan,
            }
        )
    for name, place in _places(result).items():
        next(iter(where(result, combination=name)))["place"] = place
    return VERDICTS.frame(result)


def _places(rows: Sequence[Row]) -> dict[str, float]:
    """Return the places of the right ones by their noise with the reward, then alone.

    Those with equal numbers share one.
    """
    known = finite(where(rows, verdict="right"), "rel_std_far", "total_rel_std_far")
    leaders = [row for row in known if row["same_as"] == row["combination"]]
    leaders.sort(
        key=lambda row: (
            row["total_rel_std_far"] if row["total_rel_std_far"] >= ROUNDING else 0.0,
            row["rel_std_far"],
        )
    )
    place = {row["combination"]: 1.0 + i for i, row in enumerate(leaders)}
    return {row["combination"]: place[row["same_as"]] for row in known}


def options(combinations: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Return table ``options``.

    What trainers call a combination, option by option, and what to set in its place.
    """
    verdict_of = keyed(VERDICTS.rows(found), "combination")
    rows = []
    for row in COMBINATIONS.rows(combinations):
        verdict = verdict_of.get(row["combination"])
        if verdict is None:
            continue
        for option in filter(None, re.split(r"; (?!later )(?![^(]*\))", row["used_by"])):
            trainer = next(
                (each for each in TRAINERS if re.search(rf"\b{each}(?=[ :]|$)", option)), ""
            )
            rows.append(
                {"option": option, "trainer": trainer} | {name: verdict[name] for name in VERDICT}
            )
    right = rising((row for row in verdict_of.values() if row["place"] >= 1), "place")
    place = {row["combination"]: row["place"] for row in right}
    for row in rows:
        own = [
            each
            for each in rows
            if each["combination"] in place and each["trainer"] == row["trainer"] != ""
        ]
        best = min(own, key=lambda each: place[each["combination"]], default=None)
        wrong = row["verdict"] != "right"
        row["instead"] = best["option"] if wrong and best else ""
        row["instead_combination"] = (best or right[0])["combination"] if wrong and right else ""
    return OPTIONS.frame(rows)


def complete(tables: Tables) -> Tables:
    """Return the tables of a run of an earlier version with the verdicts."""
    return {**tables, **judged(tables, {})} if GRADIENTS.table in tables else tables


def judged(tables: Tables, typed: Mapping[str, str]) -> Tables:
    """Return the tables of verdicts that follow from the others."""
    found = verdicts(tables["gradients"], typed)
    named = options(tables["combinations"], found) if "combinations" in tables else None
    return {"verdicts": found} | ({} if named is None or named.empty else {"options": named})
