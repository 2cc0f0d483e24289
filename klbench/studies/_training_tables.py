"""From the rows of training to what is said of them: differences, intervals, frontiers, fixed points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from klbench import gradients, streams
from klbench.studies._training_options import NONE, REFERENCE, TrainingOptions

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 9_999
BAND = (0.1, 0.9)
"""Quantiles over seeds between which a learning curve's band lies."""


def described(name: str) -> dict[str, Any]:
    """What a combination is made of."""
    parts = ("estimator", "placement", "level", "correction", "baseline")
    if name == NONE:
        return {"combination": NONE} | dict.fromkeys(parts, NONE)
    combination = gradients.get(name)
    return {"combination": name} | {part: getattr(combination, part) for part in parts}


def interval(values: np.ndarray, *names: str | int) -> tuple[float, float]:
    """A 95 % interval of the mean over seeds, nominally: bias-corrected, accelerated bootstrap.

    It is too short for few seeds, since resampling spreads by 1/n and never leaves the values' range: of normal values it
    covers the mean 88 % of the time with 8 seeds, 92 % with 16, and half of the time with 2. (Efron 1987; SciPy's bootstrap.)
    """
    from scipy.stats import bootstrap

    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan, math.nan
    if np.ptp(values) <= 1e-12 * np.abs(values).max():  # nothing to resample
        return float(values.mean()), float(values.mean())
    found = bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="BCa", rng=streams.generator(0, "bootstrap", *names))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def summarized(name: str, values: np.ndarray, *names: str | int) -> dict[str, float]:
    """Mean and interval under ``name``, ``name_low`` and ``name_high``."""
    low, high = interval(values, name, *names)
    return {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}


def training_table(rows: Sequence[Mapping[str, Any]], options: TrainingOptions) -> pd.DataFrame:
    """One row a combination, seed and evaluation."""
    import pandas as pd

    first = (
        "algorithm", "combination", "estimator", "placement", "level", "correction", "baseline", "beta", "seed", "step",
        "reward", "kl", "kl_estimate", "kl_estimate_se", "objective", "regret", "kl_to_optimum",
    )  # fmt: skip
    what = {name: described(name) for name in options.combinations}
    table = pd.DataFrame([{"algorithm": options.algorithm} | what[row["combination"]] | dict(row) for row in rows])
    table = table.drop(columns="frontier_reward")
    return table[[*first, *(name for name in table if name not in first)]]


def curves_table(training: pd.DataFrame) -> pd.DataFrame:
    """Mean regret, KL and reward over seeds at each evaluation, and the band that most seeds lie in."""
    import pandas as pd

    rows = []
    for (name, step), group in training.groupby(["combination", "step"], sort=False):
        row: dict[str, Any] = {"combination": name, "step": step}
        for column in ("regret", "kl", "kl_estimate", "reward"):
            values = group[column].to_numpy()
            low, high = np.quantile(values, BAND)
            row |= {column: values.mean(), f"{column}_low": low, f"{column}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def by_seed(table: pd.DataFrame, name: str, column: str) -> np.ndarray:
    """A column of one combination, by seed, at its last step."""
    rows = table[(table["combination"] == name) & (table["step"] == table["step"].max())].sort_values("seed")
    result: np.ndarray = rows[column].to_numpy(dtype=float)
    return result


def final_table(training: pd.DataFrame, options: TrainingOptions, points: Mapping[str, str]) -> pd.DataFrame:
    """One row a combination: where it ended, and the paired difference from k1 in the reward."""
    import pandas as pd

    start = training[training["step"] == 0].groupby("combination", sort=False)["regret"].mean()
    rows = []
    for name in options.combinations:
        regret = by_seed(training, name, "regret")
        difference = regret - by_seed(training, REFERENCE, "regret")
        own = training[(training["combination"] == name) & (training["step"] > 0)]
        error = (own["kl_estimate"] - own["kl"]).groupby(own["seed"]).mean().to_numpy()
        row = described(name) | {"seeds": len(regret), "fixed_point": points[name], "start_regret": float(start[name])}
        row |= summarized("regret", regret, name) | summarized("difference", difference, name)
        row |= {"effect_size": effect(difference)}
        row |= {column: by_seed(training, name, column).mean() for column in ("reward", "kl", "kl_to_optimum")}
        row |= summarized("estimate_error", error, name)
        row |= {"clip_fraction": own["clip_fraction"].mean(), "clamp_fraction": own["clamp_fraction"].mean()}
        row |= {"loss_beta": own["loss_beta"].mean()}
        row |= {"diverged": int((own[own["step"] == own["step"].max()]["status"] != "ok").sum())}
        rows.append(row | {"outcome": _outcome(row, name), "altered_by": options.altered_by})
    return pd.DataFrame(rows)


def effect(difference: np.ndarray) -> float:
    """Mean over standard deviation of paired differences (Cohen's d_z)."""
    spread = float(difference.std(ddof=1)) if len(difference) > 1 else math.nan
    return float(difference.mean()) / spread if spread > 0 else math.nan


def _outcome(row: Mapping[str, Any], name: str) -> str:
    if row["diverged"]:
        return "diverged on some seeds"
    if row["regret_low"] > row["start_regret"]:
        return "worse than not training"
    if name == REFERENCE:
        return "the comparison"
    if not math.isfinite(row["difference_low"]):
        return "too few seeds to tell"
    if row["difference_low"] > 0:
        return f"behind {REFERENCE}"
    return f"ahead of {REFERENCE}" if row["difference_high"] < 0 else f"not told from {REFERENCE}"


def frontier_tables(sampled: pd.DataFrame, others: pd.DataFrame, options: TrainingOptions) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``frontier``: reward and KL of each weight, with what the best policy of that KL would get; ``matched``: at equal KL."""
    import pandas as pd

    columns = ["combination", "beta", "seed", "kl", "reward", "frontier_reward"]
    last = pd.concat([each[each["step"] == each["step"].max()] for each in (sampled, others) if len(each)])
    seeds = set(others["seed"]) if len(others) else set()
    kept = last[last["combination"].isin(options.frontier) & last["seed"].isin(seeds)]
    starts = sampled[(sampled["step"] == 0) & (sampled["combination"] == REFERENCE)].set_index("seed")["reward"]
    rows = []
    for (name, beta), group in kept.groupby(["combination", "beta"], sort=False):
        shortfall = (group["frontier_reward"] - group["reward"]).to_numpy()
        row = {"combination": name, "beta": beta, "seeds": len(group)}
        for column in ("kl", "reward"):
            row |= summarized(column, group[column].to_numpy(), name, str(beta))
        row |= {"frontier_reward": group["frontier_reward"].mean()}
        rows.append(row | summarized("shortfall", shortfall, name, str(beta)))
    frontier = pd.DataFrame(rows).sort_values(["combination", "beta"], ignore_index=True) if rows else pd.DataFrame()
    return frontier, _matched(kept[columns], starts, options)


def _matched(kept: pd.DataFrame, starts: pd.Series[float], options: TrainingOptions) -> pd.DataFrame:
    """Reward at the KL that k1 in the reward came to with each weight, by interpolation in sqrt(KL) between a seed's points."""
    import pandas as pd

    rows = []
    for beta in sorted(set(kept["beta"])):
        for name in options.frontier:
            if name == REFERENCE:
                continue
            differences, kls = [], []
            for seed, group in kept.groupby("seed"):
                aim = group[(group["combination"] == REFERENCE) & (group["beta"] == beta)].iloc[0]
                points = group[group["combination"] == name].sort_values("kl")
                # No training is a point of every frontier: KL 0 and the reference's own reward.
                x = np.sqrt(np.concatenate([[0.0], points["kl"]]))
                y = np.concatenate([[starts[seed]], points["reward"]])
                at = math.sqrt(aim["kl"])
                differences.append(float(np.interp(at, x, y)) - aim["reward"] if at <= x[-1] else math.nan)
                kls.append(aim["kl"])
            values = np.array(differences)
            within = values[np.isfinite(values)]
            row = {"combination": name, "beta": beta, "kl": float(np.mean(kls)), "seeds": len(within)}
            if len(within):
                rows.append(row | summarized("difference", within, name, str(beta)))
    return pd.DataFrame(rows)


def noise_free_table(rows: Sequence[Mapping[str, Any]], alike: Mapping[str, str]) -> pd.DataFrame:
    """One row a combination, seed and evaluation; combinations with the same expected gradient have the same rows."""
    import pandas as pd

    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["combination"], []).append(row)
    return pd.DataFrame(
        [
            described(name) | {"same_gradient_as": first} | {k: v for k, v in row.items() if k != "combination"}
            for name, first in alike.items()
            for row in found.get(first, [])
        ]
    )
