"""From the rows of training to what is said of them: differences, intervals, frontiers, fixed points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from klbench import gradients
from klbench.metrics.seeds import effect, mean, paired, side, summarized, told
from klbench.studies.ppo.options import NONE, REFERENCE, TrainingOptions

if TYPE_CHECKING:
    import pandas as pd

BAND = (0.1, 0.9)
"""Quantiles over seeds between which a learning curve's band lies."""


def described(name: str) -> dict[str, Any]:
    """What a combination is made of."""
    parts = ("estimator", "placement", "level", "correction", "baseline")
    if name == NONE:
        return {"combination": NONE} | dict.fromkeys(parts, NONE)
    combination = gradients.get(name)
    return {"combination": name} | {part: getattr(combination, part) for part in parts}


def going(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of replicas that had not been stopped: one that diverged stays where it was, which is no result of training."""
    return table[table["status"] == "ok"] if "status" in table else table


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
    """Mean regret, KL and reward at each evaluation, and the band that most seeds lie in; without those that have diverged."""
    import pandas as pd

    rows = []
    for (name, step), group in going(training).groupby(["combination", "step"], sort=False):
        row: dict[str, Any] = {"combination": name, "step": step, "seeds": len(group)}
        for column in ("regret", "kl", "kl_estimate", "reward"):
            values = group[column].to_numpy()
            low, high = np.quantile(values, BAND)
            row |= {column: values.mean(), f"{column}_low": low, f"{column}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def by_seed(table: pd.DataFrame, name: str, column: str) -> pd.Series[float]:
    """A column of one combination at its last step, of the seeds that did not diverge."""
    rows = going(table[(table["combination"] == name) & (table["step"] == table["step"].max())]).sort_values("seed")
    return rows.set_index("seed")[column].astype(float)


def starts(training: pd.DataFrame, name: str) -> pd.Series[float]:
    """Regret before training of each seed of a combination."""
    rows = training[(training["combination"] == name) & (training["step"] == 0)]
    return rows.set_index("seed")["regret"].astype(float).sort_index()


def final_table(training: pd.DataFrame, options: TrainingOptions, points: Mapping[str, str]) -> pd.DataFrame:
    """One row a combination: where it ended, and the paired differences from k1 in the reward and from before training.

    Over ``seeds`` that did not diverge, and for differences ``difference_seeds`` with which k1 in the reward did not either;
    ``start_regret`` is that of all seeds.
    """
    import pandas as pd

    rows = []
    for name in options.combinations:
        every = training[training["combination"] == name]
        regret = by_seed(training, name, "regret")
        reference = by_seed(training, REFERENCE, "regret")
        start = starts(training, name)
        own = every[every["seed"].isin(regret.index) & (every["step"] > 0)]
        error = (own["kl_estimate"] - own["kl"]).groupby(own["seed"]).mean().to_numpy()
        row = described(name) | {"seeds": len(regret), "fixed_point": points[name], "start_regret": mean(start.to_numpy())}
        row |= summarized("regret", regret.to_numpy(), name) | paired("start_difference", regret, start, name)
        row |= paired("difference", regret, reference, name) | {"effect_size": effect(regret, reference)}
        row |= {column: mean(by_seed(training, name, column).to_numpy()) for column in ("reward", "kl", "kl_to_optimum")}
        row |= summarized("estimate_error", error, name)
        row |= {"clip_fraction": own["clip_fraction"].mean(), "clamp_fraction": own["clamp_fraction"].mean()}
        row |= {"loss_beta": own["loss_beta"].mean()}
        row |= {"diverged": every["seed"].nunique() - len(regret)}
        rows.append(row | {"outcome": _outcome(row, name), "altered_by": options.altered_by})
    return pd.DataFrame(rows)


def _outcome(row: Mapping[str, Any], name: str) -> str:
    if row["diverged"]:
        return "diverged on some seeds" if row["seeds"] else "diverged on all seeds"
    if side(row, "start_difference") == 1:
        return "worse than not training"
    if name == REFERENCE:
        return "the comparison"
    return told(row, "difference", f"ahead of {REFERENCE}", f"not told from {REFERENCE}", f"behind {REFERENCE}")


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
        every, group = len(group), going(group)
        shortfall = (group["frontier_reward"] - group["reward"]).to_numpy()
        row = {"combination": name, "beta": beta, "seeds": len(group), "diverged": every - len(group)}
        for column in ("kl", "reward"):
            row |= summarized(column, group[column].to_numpy(), name, str(beta))
        row |= {"frontier_reward": group["frontier_reward"].mean()}
        rows.append(row | summarized("shortfall", shortfall, name, str(beta)))
    frontier = pd.DataFrame(rows).sort_values(["combination", "beta"], ignore_index=True) if rows else pd.DataFrame()
    return frontier, _matched(going(kept)[columns], starts, options)


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
                aims = group[(group["combination"] == REFERENCE) & (group["beta"] == beta)]
                if not len(aims):  # it diverged
                    continue
                aim = aims.iloc[0]
                points = group[group["combination"] == name].sort_values("kl")
                # No training is a point of every frontier: KL 0 and the reference's own reward.
                x = np.sqrt(np.concatenate([[0.0], points["kl"]]))
                y = np.concatenate([[starts[seed]], points["reward"]])
                at = math.sqrt(aim["kl"])
                differences.append(float(np.interp(at, x, y)) - aim["reward"] if at <= x[-1] else math.nan)
                kls.append(aim["kl"])
            values = np.array(differences)
            within = values[np.isfinite(values)]
            if len(within):
                row = {"combination": name, "beta": beta, "kl": float(np.mean(kls)), "seeds": len(within)}
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
