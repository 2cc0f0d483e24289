"""The tables of the reward-model study: quality of the models, curves, peaks, equal KL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from klbench.metrics.seeds import SeedFrame, at_kl, paired, summarised, summary

PEAKS = ("peak_gold", "peak_proxy", "peak_kl", "end_gold", "end_proxy", "end_kl", "lost", "missed")
EQUAL_KL = (0.5, 1.0, 2.0, 4.0)
"""Nats at which methods are compared."""
MODEL_COLUMNS = (
    "accuracy",
    "best_accuracy",
    "order",
    "loss",
    "best_loss",
    "correlation",
    "calibration_error",
    "kept_step",
    "train_accuracy",
)

Rows = Sequence[Mapping[str, Any]]


def models_table(rows: Rows) -> pd.DataFrame:
    """Return one row a number of pairs: quality of the models, means over seeds with intervals.

    A model that diverged counts: what is kept of it is from before, where held-out pairs were
    predicted best.
    """
    table = pd.DataFrame(rows)
    counts = table.assign(
        untrained=table["kept_step"] == 0, diverged=table["status"] != "ok"
    ).groupby("proxy")
    result = summarised(
        SeedFrame.of(table.drop(columns="status")), ["proxy"], MODEL_COLUMNS, carried=["pairs"]
    )
    return result.join(counts[["untrained", "diverged"]].sum(), on="proxy")


def calibration_table(rows: Rows) -> pd.DataFrame:
    """Return one row a number of pairs and bin.

    The mean probability given to what the models preferred, and the true one.
    """
    table, result = pd.DataFrame(rows), []
    seeds = table["seed"].nunique()
    for (proxy, pairs, number), group in table.groupby(["proxy", "pairs", "bin"], sort=False):
        share = group["share"].sum()
        means = {
            name: float((group[name] * group["share"]).sum() / share)
            for name in ("predicted", "true")
        }
        result.append(
            {"proxy": proxy, "pairs": pairs, "bin": number, "share": share / seeds} | means
        )
    return pd.DataFrame(result).sort_values(["pairs", "bin"], ignore_index=True)


def paths_frame(found: Rows, training: pd.DataFrame) -> SeedFrame:
    """Return one row a way to make the proxy large, proxy, seed and setting.

    Exact KL, and gains of proxy and gold.
    """
    exact = pd.DataFrame(found).assign(combination="", status="ok")
    exact["kl_bound"] = np.log(exact["n"]) - (exact["n"] - 1) / exact["n"]
    # Training's beta stands in its own table; here beta is where on the way to a proxy's optimum a
    # policy stands.
    trained = (
        training.rename(columns={"reward": "proxy_gain", "gold": "gold_gain"})
        .drop(columns="beta")
        .assign(method="ppo")
    )
    columns = [
        "method",
        "combination",
        "proxy",
        "pairs",
        "seed",
        "beta",
        "n",
        "step",
        "kl",
        "proxy_gain",
        "gold_gain",
        "kl_bound",
        "k1_estimate",
        "k3_estimate",
        "status",
    ]
    return SeedFrame.of(
        pd.concat([each.reindex(columns=columns) for each in (exact, trained)]), *KEYS
    )


KEYS = ["method", "combination", "proxy"]
SETTING = ["beta", "n", "step"]


def curves_table(paths: SeedFrame) -> pd.DataFrame:
    """Return one row a method, proxy and setting.

    Means over ``seeds`` that did not diverge, with standard errors.

    ``gold_gain`` and the errors of estimates, each less the exact KL of the same policy, have
    intervals.
    """
    result = []
    for key, part in paths.groups([*KEYS, *SETTING]):
        row = (
            dict(zip([*KEYS, *SETTING], key, strict=True))
            | {"pairs": part.every["pairs"].iloc[0]}
            | part.counts
        )
        row |= {"kl_bound": part.every["kl_bound"].iloc[0]}
        kept = part.kept.set_index("seed").sort_index()
        for column in ("kl", "proxy_gain", "k1_estimate", "k3_estimate"):
            row |= {column: kept[column].mean(), f"{column}_se": kept[column].sem()}
        names = [str(each) for each in key]
        row |= summary("gold_gain", kept["gold_gain"], *names)
        for column in ("k1", "k3"):
            row |= paired(f"{column}_error", kept[f"{column}_estimate"], kept["kl"], *names)
        result.append(row)
    return pd.DataFrame(result)


def peaks_table(paths: SeedFrame) -> pd.DataFrame:
    """Return one row a method and proxy.

    Where the gold reward is largest, and what is lost of it by going on to the end.

    ``missed`` is what the same method gains at most with the gold reward for a proxy (training:
    what the exact optimum gains), less the peak; all on the same seed.
    """
    ideal = paths.where(proxy="gold").kept.groupby(["method", "seed"])["gold_gain"].max()
    found = []
    for (method, combination, proxy, seed), part in paths.groups([*KEYS, "seed"]):
        # From the reference outward: training by its steps, the others by KL.
        path = part.every.sort_values("step" if method == "ppo" else "kl")
        top, end = path.iloc[int(path["gold_gain"].to_numpy().argmax())], path.iloc[-1]
        best = ideal["optimum" if method == "ppo" else method, seed]
        found.append(
            {
                "method": method,
                "combination": combination,
                "proxy": proxy,
                "pairs": end["pairs"],
                "seed": seed,
                "peak_gold": top["gold_gain"],
                "peak_proxy": top["proxy_gain"],
                "peak_kl": top["kl"],
                "end_gold": end["gold_gain"],
                "end_proxy": end["proxy_gain"],
                "end_kl": end["kl"],
                "lost": top["gold_gain"] - end["gold_gain"],
                "missed": best - top["gold_gain"],
                "status": end["status"],
            }
        )
    return summarised(SeedFrame.of(pd.DataFrame(found), *KEYS), KEYS, PEAKS, carried=["pairs"])


def equal_kl_table(paths: SeedFrame) -> pd.DataFrame:
    """Return one row a method, proxy and KL.

    The gold gain there, interpolated on each seed's path, against the optimum's.

    Only seeds whose paths of both come so far.
    """
    found = pd.DataFrame(
        dict(zip(KEYS, key, strict=True))
        | {"seed": seed, "kl": kl, "gold_gain": float(at_kl(path.kept, "gold_gain", kl))}
        for key, part in paths.groups(KEYS)
        for kl, ((seed,), path) in product(EQUAL_KL, part.groups(["seed"]))
    )
    on = ["proxy", "seed", "kl"]
    optimum = found[found["method"] == "optimum"].set_index(on)["gold_gain"].rename("optimum")
    found["difference"] = found["gold_gain"] - found.join(optimum, on=on)["optimum"]
    return summarised(SeedFrame.of(found.dropna()), [*KEYS, "kl"], ("gold_gain", "difference"))
