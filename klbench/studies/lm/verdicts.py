"""Verdicts on the completions of each pair.

Whether k1 and k3 agree, what speaks against them, and what to take.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from klbench.metrics.tails import CANNOT_TELL, FAILS, HOLDS, STRANGE
from klbench.rows import Row, Rows, where
from klbench.schema import Tables
from klbench.studies.lm.values import NAN, RAO_BLACKWELL, WEIGHTED, ratio_of

TARGET = "KL(q‖p)"
AGREE, DIFFER = "agree", "differ"
RATIO = "p/q"


def complete(tables: Tables) -> dict[str, pd.DataFrame]:
    """Return the tables of a run with its verdicts, which follow from the other tables."""
    found = dict(tables)
    compared = agreement(found) if "agreement" not in found else found["agreement"]
    found["agreement"] = judged(compared, found)
    found["verdicts"] = verdicts(found)
    return found


def _rows(tables: Tables, name: str, pair: str) -> Rows:
    rows = tables[name].to_dict("records") if name in tables else []
    return [{str(key): value for key, value in row.items()} for row in rows if row["pair"] == pair]


def agreement(tables: Tables) -> pd.DataFrame:
    """Return k1, k3 and their difference from the tables of an earlier version.

    The standard error of the difference is that of the mean of p/q over tokens, times the mean
    length; it is not known where that mean was not checked.
    """
    rows = []
    for about in tables["pairs"].to_dict("records"):
        at = _measured(tables, about["pair"])
        columns: Row = {"pair": about["pair"], "off_policy": about["off_policy"]}
        for name in ("k1", "k3"):
            row = at.get((name, "token"), {})
            columns |= {name: row.get("mean", NAN), f"{name}_se": row.get("mean_se", NAN)}
        checks = where(_rows(tables, "checks", about["pair"]), ratio=RATIO)
        error = checks[0]["mean_se"] * about["mean_length"] if checks else NAN
        rows.append(columns | {"difference": columns["k3"] - columns["k1"], "difference_se": error})
    return pd.DataFrame(rows)


def judged(compared: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """Return the comparison of k1 and k3 with its verdict.

    That of the ratio p/q where it was checked, else by the distance.
    """
    scores, words = [], []
    for row in compared.to_dict("records"):
        z = ratio_of(row["difference"], row["difference_se"])
        checks = [
            check["verdict"]
            for check in _rows(tables, "checks", row["pair"])
            if check["ratio"] == RATIO
        ]
        by_ratio = {HOLDS: AGREE, FAILS: DIFFER, CANNOT_TELL: CANNOT_TELL}
        by_distance = CANNOT_TELL if math.isnan(z) else DIFFER if abs(z) > STRANGE else AGREE
        scores.append(z)
        words.append(by_ratio[checks[0]] if checks else by_distance)
    return compared.assign(z=scores, verdict=words)


def verdicts(tables: Tables) -> pd.DataFrame:
    """Return what speaks against the completions of each pair, and what can be recommended on
    them.
    """
    return pd.DataFrame([_verdict(about, tables) for about in tables["pairs"].to_dict("records")])


def _verdict(about: Mapping[Any, Any], tables: Tables) -> Row:
    pair, at = about["pair"], _measured(tables, about["pair"])
    found = {row["verdict"] for row in _rows(tables, "checks", pair)}
    ratios = FAILS if FAILS in found else CANNOT_TELL if CANNOT_TELL in found else HOLDS
    k1, k3, whole = (at.get(key) for key in (("k1", "token"), ("k3", "token"), ("k3", "sequence")))
    # On samples of the policy itself k1 has no bias.
    unbiased = k1 is not None and not about["off_policy"] and k1["bias_method"] == "paired"
    k1_z = ratio_of(k1["bias"], k1["bias_se"]) if k1 is not None and unbiased else NAN
    sound = ratios != FAILS and not abs(k1_z) > STRANGE
    usable = sound and not about["off_policy"]
    nearest = _nearest(list(at.values())) if sound else None
    return {
        "pair": pair,
        "sound": sound,
        "ratios": ratios,
        "k1_z": k1_z,
        "nearest": nearest["estimator"] if nearest else "",
        "nearest_level": nearest["level"] if nearest else "",
        "nearest_rel_rmse_100": nearest["rel_rmse_100"] if nearest else NAN,
        "exact_saving": _saving(k1, at.get((RAO_BLACKWELL, "token"))) if usable else NAN,
        "k3_saving": _saving(k1, k3) if usable and ratios == HOLDS else NAN,
        "whole_k3_noise": ratio_of(whole["std"], k3["std"]) if whole and k3 and usable else NAN,
        "whole_k3_status": whole["status"] if whole and usable else "",
        "half_by": _half(_rows(tables, "tokens", pair)),
    }


def _measured(tables: Tables, pair: str) -> dict[tuple[str, str], Row]:
    """Return a pair's estimates of KL(q‖p) of a completion by estimator and level."""
    rows = _rows(tables, "values", pair)
    kept = (
        row
        for row in rows
        if row["per"] == "sequence" and row["target"] == TARGET and math.isfinite(row["mean"])
    )
    return {(row["estimator"], row["level"]): row for row in kept}


def _nearest(rows: Sequence[Row]) -> Row | None:
    """Return the row with the least error of a mean over 100 completions among those that can be
    trusted.
    """
    kept = [
        row
        for row in rows
        if row["status"] == "ok" and row["estimator"] not in (RAO_BLACKWELL, WEIGHTED)
    ]
    kept = [
        row
        for row in kept
        if math.isfinite(row["rel_rmse_100"]) and math.isfinite(row["rel_bias_se"])
    ]
    return min(kept, key=lambda row: float(row["rmse_100"]), default=None)


def _saving(k1: Row | None, other: Row | None) -> float:
    """Return how many times the other's completions k1 needs for the same standard error.

    NaN where a row is in doubt.
    """
    if k1 is None or other is None or not k1["status"] == other["status"] == "ok":
        return NAN
    return ratio_of(k1["variance"], other["variance"])


def _half(rows: Sequence[Row]) -> float:
    """Return the position by which half of the divergence has arisen.

    NaN where no position has a share.
    """
    total = 0.0
    for row in rows:
        total += row["share"]
        if total >= 0.5:
            return float(row["position"])
    return NAN
