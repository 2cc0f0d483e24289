"""The tables of DPO from its rows.

Where each number of pairs leads, which loss ends nearest, what samples said of the KL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from klbench.metrics.seeds import (
    SeedFrame,
    by_seed,
    effect,
    mean,
    outcome,
    paired,
    summary,
    verdict,
)
from klbench.rows import Row
from klbench.schema import Tables, records
from klbench.studies.dpo.options import STANDARD, DpoOptions

MEANS = (
    "reward kl regret kl_to_own divergence_value accuracy population_accuracy loss population_loss"
    " reward_slope reward_correlation policy_slope policy_correlation"
).split()
START_OUTCOMES = (
    "nearer than the reference",
    "not told from the reference",
    "further than the reference",
)
PLACES = ("nearest", "not told from it", "further")
CURVES = ("kl_to_optimum", "kl_to_own", "kl", "loss", "population_loss")


def described(options: DpoOptions) -> dict[str, Row]:
    """Return what each loss is made of, by its name."""
    return {
        arm.name: {
            "arm": arm.name,
            "divergence": "none" if arm.score == "log_prob_per_token" else arm.divergence,
            "smoothing": arm.smoothing,
            "beta": options.beta,
            "beta_dpo": arm.beta,
        }
        for arm in options.arms
    }


def checkpoints(mine: SeedFrame) -> Tables:
    """Return the rows of one loss and number of pairs at three checkpoints, one a seed.

    ``last``, ``best`` and ``stopped``.

    The best one has the least KL(q‖q*), the stopped one the least loss on all pairs.
    """
    own = mine.kept
    places = own.groupby("seed", sort=False)
    found = {
        "last": own[own["step"] == own["step"].max()],
        "best": own.loc[places["kl_to_optimum"].idxmin()],
        "stopped": own.loc[places["population_loss"].idxmin()],
    }
    return {kind: rows.sort_values("seed") for kind, rows in found.items()}


def final_table(training: pd.DataFrame, options: DpoOptions) -> pd.DataFrame:
    """Return one row a loss and number of pairs.

    KL(q‖q*) at the three checkpoints, and what is said of it.

    Over ``seeds`` that did not diverge; ``_difference`` is from the standard loss on the same pairs
    and seeds, over ``_seeds`` that diverged in neither.
    """
    rows = []
    standard: dict[tuple[float, str], pd.Series[float]] = {}
    for (size, name), mine in SeedFrame.of(training, "arm", "pairs").groups(("pairs", "arm")):
        kinds = checkpoints(mine)
        row = {**described(options)[name], "pairs": size, "seeds": mine.counts["seeds"]}
        for kind, table in kinds.items():
            values = by_seed(table, "kl_to_optimum")
            row |= summary(kind, values, name, str(size))
            other = standard.setdefault((size, kind), values)
            row |= paired(f"{kind}_difference", values, other, name, str(size))
            row |= {
                f"{kind}_effect_size": effect(values, other),
                f"{kind}_step": float(table["step"].median()),
            }
        row |= {column: mean(kinds["last"][column]) for column in MEANS}
        row |= {
            "best_kl": mean(kinds["best"]["kl"]),
            "diverged": mine.counts["diverged"],
        }
        rows.append(row | {"outcome": outcome(row, _verdict(row, name))})
    return placed(pd.DataFrame(rows), training)


def _verdict(row: Row, name: str) -> str:
    if name == STANDARD:
        return "the comparison"
    return verdict(
        row,
        "last_difference",
        "nearer to the optimum",
        "not told from the standard",
        "further from the optimum",
    )


def placed(final: pd.DataFrame, training: pd.DataFrame) -> pd.DataFrame:
    """Return the final table with each row's place.

    Against the reference, and against the loss that ends nearest.

    ``_start_difference`` is KL(q‖q*) less that before training, ``nearest_difference`` that after
    training less that of the loss with the least mean on as many pairs, both on the same seeds.
    """
    frame = SeedFrame.of(training, "arm", "pairs")
    ends = final.dropna(subset="last").sort_values("last").drop_duplicates("pairs")
    nearest = dict(zip(ends["pairs"], ends["arm"], strict=True))
    rows = []
    for row in records(final):
        name, size = row["arm"], row["pairs"]
        mine = frame.where(arm=name, pairs=size)
        start = mine.first("kl_to_optimum")
        for kind, table in checkpoints(mine).items():
            row |= paired(
                f"{kind}_start_difference", by_seed(table, "kl_to_optimum"), start, name, str(size)
            )
        best = frame.where(arm=nearest.get(size, name), pairs=size).last("kl_to_optimum")
        row |= paired("nearest_difference", mine.last("kl_to_optimum"), best, name, str(size))
        row["start_outcome"] = verdict(row, "last_start_difference", *START_OUTCOMES)
        row["place"] = (
            "nearest" if nearest.get(size) == name else verdict(row, "nearest_difference", *PLACES)
        )
        rows.append(row)
    return pd.DataFrame(rows)


def rates_table(training: pd.DataFrame, final: pd.DataFrame) -> pd.DataFrame:
    """Return one row a loss.

    The power of the number of pairs that KL(q‖q*) goes with, and how many pairs are enough.

    The power is the slope of a line through each seed's logarithms, over ``seeds`` that diverged
    with no number of pairs.
    """
    rows = []
    for (name,), mine in SeedFrame.of(training[np.isfinite(training["pairs"])], "arm").groups(
        ("arm",)
    ):
        own = mine.kept
        row: Row = {"arm": name, "seeds": mine.counts["seeds"]}
        for kind, values in (
            (
                "last",
                own[own["step"] == own["step"].max()].set_index(["seed", "pairs"])["kl_to_optimum"],
            ),
            ("best", own.groupby(["seed", "pairs"])["kl_to_optimum"].min()),
        ):
            grid = values.unstack("pairs").sort_index()
            if (
                not len(grid)
                or grid.shape[1] < 2
                or bool((grid <= 0).any(axis=None))
                or bool(grid.isna().any(axis=None))
            ):
                continue
            slopes = np.polyfit(
                np.log(grid.columns.to_numpy(dtype=float)), np.log(grid.to_numpy()).T, 1
            )[0]
            row |= summary(f"{kind}_exponent", slopes, name)
        rows.append(row | {"enough_pairs": enough(final[final["arm"] == name])})
    return pd.DataFrame(rows)


def enough(final: pd.DataFrame) -> float:
    """Return the least number of pairs from which on a loss ends nearer to the optimum than the
    reference; NaN: none is.
    """
    found = math.nan
    for row in records(final.sort_values("pairs", ascending=False)):
        if row["start_outcome"] != START_OUTCOMES[0]:
            break
        found = float(row["pairs"])
    return found


def optima_table(
    rows: Sequence[Mapping[str, Any]], training: pd.DataFrame, options: DpoOptions
) -> pd.DataFrame:
    """Return one row for each loss.

    Its exact optimum on all pairs, and where training on all pairs ended.
    """
    table = pd.DataFrame(rows)
    reached = SeedFrame.of(training[np.isinf(training["pairs"])], "arm")
    result = []
    for name, what in described(options).items():
        own, ends = table[table["arm"] == name].sort_values("seed"), reached.where(arm=name)
        row = what | {
            "seeds": len(own),
            "start": float(own["start"].mean()),
            "residual": float(own["residual"].max()),
        }
        for column in ("kl_to_optimum", "kl", "reward", "divergence_value", "slope", "correlation"):
            row |= summary(f"own_{column}", own[column], name)
        for column in ("kl_to_optimum", "kl_to_own", "kl"):
            if len(ends.kept):
                row |= summary(f"reached_{column}", ends.last(column), name)
        result.append(row)
    return pd.DataFrame(result)


def estimates_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row for each number of pairs, evaluation and estimate of the KL of standard DPO:
    means over seeds.

    ``error`` is the mean of estimate less exact KL with a standard error over seeds, ``bias`` that
    of the estimator's own expectation, ``below`` the share of seeds that it left below.
    """
    table = pd.DataFrame(rows)
    result = []
    keys = ["pairs", "step", "samples_of", "estimator", "level"]
    for key, group in table[table["step"] > 0].groupby(keys, sort=False):
        error = (group["estimate"] - group["kl"]).to_numpy()
        n = len(error)
        result.append(
            dict(zip(keys, key, strict=True))
            | {
                "seeds": n,
                "kl": group["kl"].mean(),
                "estimate": group["estimate"].mean(),
                "error": error.mean(),
                "error_se": error.std(ddof=1) / n**0.5 if n > 1 else math.nan,
                "rmse": float(np.sqrt(np.mean(error**2))),
                "bias": (group["expected"] - group["kl"]).mean(),
                "below": float((error < 0).mean()),
                "claimed_se": float(group["estimate_se"].mean()),
            }
        )
    return pd.DataFrame(result)


def seen_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row for each number of pairs and estimate.

    Its error over all evaluations, in units of the exact KL.
    """
    table = pd.DataFrame(rows)
    result = []
    keys = ["pairs", "samples_of", "estimator", "level"]
    for key, group in table[table["step"] > 0].groupby(keys, sort=False):
        relative = (
            ((group["estimate"] - group["kl"]) / group["kl"])
            .groupby(group["seed"])
            .mean()
            .to_numpy()
        )
        spread = (((group["estimate"] - group["kl"]) / group["kl"]) ** 2).groupby(
            group["seed"]
        ).mean() ** 0.5
        row: Row = dict(zip(keys, key, strict=True)) | {
            "seeds": len(relative),
            "kl": group["kl"].mean(),
        }
        row |= summary("rel_error", relative, *map(str, key)) | {"rel_rmse": float(spread.mean())}
        row |= {"rel_bias": float(((group["expected"] - group["kl"]) / group["kl"]).mean())}
        row |= {"below": float((group["estimate"] < group["kl"]).mean())}
        result.append(row | {"outcome": _said(row)})
    return pd.DataFrame(result)


def points_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row for each number of pairs and evaluation.

    KTO's reference point beside the exact KL, means over seeds.
    """
    result = []
    for key, group in pd.DataFrame(rows).groupby(["pairs", "step"], sort=True):
        row = dict(zip(("pairs", "step"), key, strict=True)) | {"seeds": len(group)}
        row |= {name: group[name].mean() for name in ("kl", "point", "mismatched", "one", "all")}
        bias = (group["point"] - group["kl"]).to_numpy()
        result.append(row | summary("bias", bias, "kto", *map(str, key)))
    return pd.DataFrame(result)


def _said(row: Row) -> str:
    return verdict(row, "rel_error", "too low", "not told from exact", "too high")


def complete(tables: Tables) -> Tables:
    """Return the tables of a run of an earlier version with the places and outcomes that they
    did not have yet.
    """
    found = dict(tables)
    if {"dpo_final", "training"} <= set(found):
        found["dpo_final"] = placed(found["dpo_final"], found["training"])
    if {"dpo_final", "dpo_rates"} <= set(found):
        final = found["dpo_final"]
        sizes = [enough(final[final["arm"] == name]) for name in found["dpo_rates"]["arm"]]
        found["dpo_rates"] = found["dpo_rates"].assign(enough_pairs=sizes)
    if "dpo_seen" in found:
        found["dpo_seen"] = found["dpo_seen"].assign(
            outcome=[_said(row) for row in records(found["dpo_seen"])]
        )
    return found
