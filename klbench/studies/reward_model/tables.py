"""From the rows of the reward-model study to what is said of them: quality of the models, curves, peaks, equal KL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from klbench.metrics.seeds import paired, summarized
from klbench.studies.ppo.tables import described
from klbench.studies.reward_model.options import RewardModelOptions

if TYPE_CHECKING:
    import pandas as pd

PEAKS = ("peak_gold", "peak_proxy", "peak_kl", "end_gold", "end_proxy", "end_kl", "lost", "missed")
EQUAL_KL = (0.5, 1.0, 2.0, 4.0)
"""Nats at which methods are compared."""
MODEL_COLUMNS = (
    "accuracy", "best_accuracy", "order", "loss", "best_loss", "correlation", "calibration_error", "kept_step",
    "train_accuracy",
)  # fmt: skip

Rows = Sequence[Mapping[str, Any]]


def training_table(rows: Rows, options: RewardModelOptions) -> pd.DataFrame:
    """One row a combination, number of pairs, seed and evaluation; ``reward`` and all that follows from it are the proxy's."""
    import pandas as pd

    first = (
        "algorithm", "combination", "estimator", "placement", "level", "correction", "baseline", "beta", "proxy", "pairs",
        "seed", "step", "reward", "gold", "kl", "kl_estimate", "kl_estimate_se", "k1_estimate", "k3_estimate", "objective",
        "regret", "kl_to_optimum",
    )  # fmt: skip
    what = {name: described(name) for name in options.combinations}
    table = pd.DataFrame([{"algorithm": options.algorithm} | what[row["combination"]] | dict(row) for row in rows])
    return table[[*first, *(name for name in table if name not in first)]]


def models_table(rows: Rows) -> pd.DataFrame:
    """One row a number of pairs: quality of the models, means over seeds with intervals.

    A model that diverged counts: what is kept of it is from before, where held-out pairs were predicted best.
    """
    import pandas as pd

    table, result = pd.DataFrame(rows), []
    for (proxy, pairs), group in table.groupby(["proxy", "pairs"], sort=False):
        group = group.sort_values("seed")
        row: dict[str, Any] = {"proxy": proxy, "pairs": pairs, "seeds": len(group)}
        for column in MODEL_COLUMNS:
            row |= summarized(column, group[column].to_numpy(), str(proxy))
        row |= {"untrained": int((group["kept_step"] == 0).sum())}
        result.append(row | {"diverged": int((group["status"] != "ok").sum())})
    return pd.DataFrame(result)


def calibration_table(rows: Rows) -> pd.DataFrame:
    """One row a number of pairs and bin: mean probability that the models gave to what they preferred, and the true one."""
    import pandas as pd

    table, result = pd.DataFrame(rows), []
    seeds = table["seed"].nunique()
    for (proxy, pairs, number), group in table.groupby(["proxy", "pairs", "bin"], sort=False):
        share = group["share"].sum()
        means = {name: float((group[name] * group["share"]).sum() / share) for name in ("predicted", "true")}
        result.append({"proxy": proxy, "pairs": pairs, "bin": number, "share": share / seeds} | means)
    return pd.DataFrame(result).sort_values(["pairs", "bin"], ignore_index=True)


def paths_table(paths: Rows, training: pd.DataFrame) -> pd.DataFrame:
    """One row a way to make the proxy large, proxy, seed and setting: exact KL, and gains of proxy and gold.

    NaN where training diverged: where a policy was stopped is no result of it.
    """
    import pandas as pd

    exact = pd.DataFrame(paths).assign(combination="")
    exact["kl_bound"] = np.log(exact["n"]) - (exact["n"] - 1) / exact["n"]
    # Training's beta stands in its own table; here beta is where on the way to a proxy's optimum a policy stands.
    trained = training.rename(columns={"reward": "proxy_gain", "gold": "gold_gain"}).drop(columns="beta").assign(method="ppo")
    columns = [
        "method", "combination", "proxy", "pairs", "seed", "beta", "n", "step", "kl", "proxy_gain", "gold_gain", "kl_bound",
        "k1_estimate", "k3_estimate",
    ]  # fmt: skip
    replica = [trained[column] for column in ("combination", "proxy", "seed")]
    stopped = (trained["status"] != "ok").groupby(replica).transform("any")
    trained.loc[stopped, ["kl", "proxy_gain", "gold_gain", "k1_estimate", "k3_estimate"]] = np.nan
    return pd.concat([each.reindex(columns=columns) for each in (exact, trained)], ignore_index=True)


KEYS = ["method", "combination", "proxy"]
SETTING = ["beta", "n", "step"]


def curves_table(paths: pd.DataFrame) -> pd.DataFrame:
    """One row a method, proxy and setting: means over ``seeds`` that did not diverge, with standard errors.

    ``gold_gain`` and the errors of estimates, each less the exact KL of the same policy, have intervals.
    """
    import pandas as pd

    result = []
    for key, group in paths.groupby([*KEYS, *SETTING], sort=False, dropna=False):
        row = dict(zip([*KEYS, *SETTING], key, strict=True)) | {"pairs": group["pairs"].iloc[0]}
        row |= {"seeds": int(group["kl"].notna().sum()), "diverged": int(group["kl"].isna().sum())}
        row |= {"kl_bound": group["kl_bound"].iloc[0]}
        group = group[group["kl"].notna()].set_index("seed").sort_index()
        for column in ("kl", "proxy_gain", "k1_estimate", "k3_estimate"):
            row |= {column: group[column].mean(), f"{column}_se": group[column].sem()}
        names = [str(each) for each in key]
        row |= summarized("gold_gain", group["gold_gain"].to_numpy(), *names)
        for column in ("k1", "k3"):
            row |= paired(f"{column}_error", group[f"{column}_estimate"], group["kl"], *names)
        result.append(row)
    return pd.DataFrame(result)


def _ordered(group: pd.DataFrame) -> pd.DataFrame:
    """A path from the reference outward: training by its steps, the others by KL."""
    return group.sort_values("step" if group["method"].iloc[0] == "ppo" else "kl")


def peaks_table(paths: pd.DataFrame) -> pd.DataFrame:
    """One row a method and proxy: where the gold reward is largest, and what is lost of it by going on to the end.

    ``missed`` is what the same method gains at most with the gold reward for a proxy (training: what the exact optimum gains),
    less the peak; all on the same seed.
    """
    import pandas as pd

    gold = paths[paths["proxy"] == "gold"]
    ideal = {(row.method, row.seed): row.gold_gain for row in gold.sort_values("gold_gain").itertuples()}  # the largest last
    result = []
    for key, group in paths.groupby(KEYS, sort=False):
        names = dict(zip(KEYS, map(str, key), strict=True))
        found = []
        for seed, path in group.groupby("seed"):
            if path["kl"].isna().all():  # it diverged
                continue
            path = _ordered(path)
            top, end = path.iloc[int(path["gold_gain"].to_numpy().argmax())], path.iloc[-1]
            best = ideal["optimum" if names["method"] == "ppo" else names["method"], seed]
            found.append(
                {
                    "peak_gold": top["gold_gain"], "peak_proxy": top["proxy_gain"], "peak_kl": top["kl"],
                    "end_gold": end["gold_gain"], "end_proxy": end["proxy_gain"], "end_kl": end["kl"],
                    "lost": top["gold_gain"] - end["gold_gain"], "missed": best - top["gold_gain"],
                }
            )  # fmt: skip
        row: dict[str, Any] = names | {"pairs": group["pairs"].iloc[0], "seeds": len(found)}
        row |= {"diverged": group["seed"].nunique() - len(found)}
        for column in PEAKS:
            row |= summarized(column, np.array([each[column] for each in found]), *names.values())
        result.append(row)
    return pd.DataFrame(result)


def equal_kl_table(paths: pd.DataFrame) -> pd.DataFrame:
    """One row a method, proxy and KL: the gold gain there, interpolated in sqrt(KL) on each seed's path, against the optimum's.

    Only seeds whose paths of both come so far; the reference is a point of every path.
    """
    import pandas as pd

    at: dict[tuple[str, ...], dict[Any, np.ndarray]] = {}
    for (*key, seed), path in paths.groupby([*KEYS, "seed"], sort=False):
        path = path.sort_values("kl")
        x = np.sqrt(np.concatenate([[0.0], path["kl"].clip(lower=0.0)]))
        y = np.concatenate([[0.0], path["gold_gain"]])
        wanted = np.sqrt(EQUAL_KL)
        at.setdefault(tuple(map(str, key)), {})[seed] = np.where(wanted <= x[-1], np.interp(wanted, x, y), np.nan)
    result = []
    for (method, combination, proxy), found in at.items():
        mine = np.stack(list(found.values()))
        optimum = np.stack([at["optimum", "", proxy][seed] for seed in found])
        for column, kl in enumerate(EQUAL_KL):
            both = np.isfinite(mine[:, column]) & np.isfinite(optimum[:, column])
            if both.any():
                row = {"method": method, "combination": combination, "proxy": proxy, "kl": kl, "seeds": int(both.sum())}
                names = (method, combination, proxy, str(kl))
                row |= summarized("gold_gain", mine[both, column], *names)
                result.append(row | summarized("difference", (mine - optimum)[both, column], *names))
    return pd.DataFrame(result)
