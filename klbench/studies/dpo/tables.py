"""From the rows of DPO to what is said of them: where each number of pairs leads, when it was best, what was told of the KL."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from klbench.metrics.seeds import SeedFrame, by_seed, effect, mean, outcome, paired, summary, verdict
from klbench.studies.dpo.options import STANDARD, DpoOptions

MEANS = (
    "reward", "kl", "regret", "kl_to_own", "divergence_value", "accuracy", "population_accuracy", "loss", "population_loss",
    "reward_slope", "reward_correlation", "policy_slope", "policy_correlation",
)  # fmt: skip
CURVES = ("kl_to_optimum", "kl_to_own", "kl", "loss", "population_loss")


def described(options: DpoOptions) -> dict[str, dict[str, Any]]:
    """What each arm is made of."""
    return {
        arm.name: {
            "arm": arm.name, "divergence": arm.divergence, "smoothing": arm.smoothing, "beta": options.beta,
            "beta_dpo": arm.beta,
        }
        for arm in options.arms
    }  # fmt: skip


def _at(table: pd.DataFrame, places: pd.Series[int]) -> pd.DataFrame:
    """Rows by label, one a seed, in the seeds' order."""
    return table.loc[places].sort_values("seed")


def final_table(training: pd.DataFrame, options: DpoOptions) -> pd.DataFrame:
    """One row an arm and number of pairs: KL(pi‖pi*) of the last, the best, and the checkpoint with the least population loss.

    Over ``seeds`` that did not diverge; ``_difference`` is from the standard arm on the same pairs and seeds, and
    ``_start_difference`` from before training, each over ``_seeds`` that diverged in neither.
    """
    rows = []
    standard: dict[tuple[float, str], pd.Series[float]] = {}
    for (size, name), mine in SeedFrame.of(training, "arm", "pairs").groups(("pairs", "arm")):
        own, start = mine.kept, mine.first("kl_to_optimum")
        places = own.groupby("seed", sort=False)
        kinds = {
            "last": own[own["step"] == own["step"].max()].sort_values("seed"),
            "best": _at(own, places["kl_to_optimum"].idxmin()),
            "stopped": _at(own, places["population_loss"].idxmin()),
        }
        row = {**described(options)[name], "pairs": size, "seeds": mine.counts["seeds"]}
        for kind, table in kinds.items():
            values = by_seed(table, "kl_to_optimum")
            row |= summary(kind, values.to_numpy(), name, str(size))
            other = standard.setdefault((size, kind), values)
            row |= paired(f"{kind}_difference", values, other, name, str(size))
            row |= {f"{kind}_effect_size": effect(values, other), f"{kind}_step": float(table["step"].median())}
            row |= paired(f"{kind}_start_difference", values, start, name, str(size))
        row |= {column: mean(kinds["last"][column].to_numpy()) for column in MEANS}
        row |= {"best_kl": mean(kinds["best"]["kl"].to_numpy()), "diverged": mine.counts["diverged"]}
        rows.append(row | {"outcome": outcome(row, _verdict(row, name))})
    return pd.DataFrame(rows)


def _verdict(row: Mapping[str, Any], name: str) -> str:
    if name == STANDARD:
        return "the comparison"
    return verdict(row, "last_difference", "nearer to the optimum", "not told from the standard", "further from the optimum")


def rates_table(training: pd.DataFrame) -> pd.DataFrame:
    """One row an arm: the power of the number of pairs that KL(pi‖pi*) goes with, by a line through each seed's logarithms.

    Over ``seeds`` that diverged with no number of pairs.
    """
    rows = []
    for (name,), mine in SeedFrame.of(training[np.isfinite(training["pairs"])], "arm").groups(("arm",)):
        own = mine.kept
        row: dict[str, Any] = {"arm": name, "seeds": mine.counts["seeds"]}
        for kind, values in (
            ("last", own[own["step"] == own["step"].max()].set_index(["seed", "pairs"])["kl_to_optimum"]),
            ("best", own.groupby(["seed", "pairs"])["kl_to_optimum"].min()),
        ):
            grid = values.unstack("pairs").sort_index()
            if not len(grid) or grid.shape[1] < 2 or bool((grid <= 0).any(axis=None)) or bool(grid.isna().any(axis=None)):
                continue
            slopes = np.polyfit(np.log(grid.columns.to_numpy(dtype=float)), np.log(grid.to_numpy()).T, 1)[0]
            row |= summary(f"{kind}_exponent", slopes, name)
        rows.append(row)
    return pd.DataFrame(rows)


def optima_table(rows: Sequence[Mapping[str, Any]], training: pd.DataFrame, options: DpoOptions) -> pd.DataFrame:
    """One row an arm: its exact population optimum, how far that is from ``pi*``, and where training on all pairs ended."""
    table = pd.DataFrame(rows)
    reached = SeedFrame.of(training[np.isinf(training["pairs"])], "arm")
    result = []
    for name, what in described(options).items():
        own, ends = table[table["arm"] == name].sort_values("seed"), reached.where(arm=name)
        row = what | {"seeds": len(own), "start": float(own["start"].mean()), "residual": float(own["residual"].max())}
        for column in ("kl_to_optimum", "kl", "reward", "divergence_value", "slope", "correlation"):
            row |= summary(f"own_{column}", own[column].to_numpy(), name)
        for column in ("kl_to_optimum", "kl_to_own", "kl"):
            if len(ends.kept):
                row |= summary(f"reached_{column}", ends.last(column).to_numpy(), name)
        result.append(row)
    return pd.DataFrame(result)


def estimates_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a number of pairs, evaluation and estimator: means over seeds of what the standard arm's samples said of its KL.

    ``error`` is the mean of estimate less exact KL with a standard error over seeds, ``bias`` that of the estimator's own
    expectation, ``below`` the share of seeds that it left below.
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
                "seeds": n, "kl": group["kl"].mean(), "estimate": group["estimate"].mean(), "error": error.mean(),
                "error_se": error.std(ddof=1) / n**0.5 if n > 1 else math.nan, "rmse": float(np.sqrt(np.mean(error**2))),
                "bias": (group["expected"] - group["kl"]).mean(), "below": float((error < 0).mean()),
                "claimed_se": float(group["estimate_se"].mean()),
            }
        )  # fmt: skip
    return pd.DataFrame(result)


def seen_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row an estimator and number of pairs: its error over all evaluations, in units of the exact KL, by seed."""
    table = pd.DataFrame(rows)
    result = []
    keys = ["pairs", "samples_of", "estimator", "level"]
    for key, group in table[table["step"] > 0].groupby(keys, sort=False):
        relative = ((group["estimate"] - group["kl"]) / group["kl"]).groupby(group["seed"]).mean().to_numpy()
        spread = (((group["estimate"] - group["kl"]) / group["kl"]) ** 2).groupby(group["seed"]).mean() ** 0.5
        row: dict[str, Any] = dict(zip(keys, key, strict=True)) | {"seeds": len(relative), "kl": group["kl"].mean()}
        row |= summary("rel_error", relative, *map(str, key)) | {"rel_rmse": float(spread.mean())}
        row |= {"rel_bias": float(((group["expected"] - group["kl"]) / group["kl"]).mean())}
        row |= {"below": float((group["estimate"] < group["kl"]).mean())}
        result.append(row)
    return pd.DataFrame(result)
