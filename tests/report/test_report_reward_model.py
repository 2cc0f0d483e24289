"""The part on learned rewards: sentences that follow from the tables, figures and tables of each run."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from gradient_runs import plain

from klbench.report import combine, render
from klbench.schema import by_table
from klbench.studies.reward_model import section as reward_model_section
from klbench.studies.reward_model.columns import TABLES

MakeRun = Callable[..., Path]
PROXIES = {"64 pairs": 64.0, "4,096 pairs": 4096.0, "gold": math.nan}
# Peak, end, KL of both, proxy at the end.
PEAKS = {
    "64 pairs": (0.3, 0.17, 3.5, 7.0, 0.62),
    "4,096 pairs": (0.74, 0.7395, 7.5, 10.0, 1.0),
    "gold": (0.9, 0.9, 8.4, 8.4, 0.9),
}
WAYS = (("optimum", ""), ("best_of_n", ""), ("ppo", "k1_reward"), ("ppo", "none"))


def spread(name: str, value: float, half: float = 0.005) -> dict[str, float]:
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


def content(status: str = "ok") -> dict[str, pd.DataFrame]:
    curves, peaks, equal, models, calibration, training = [], [], [], [], [], []
    for method, combination in WAYS:
        for proxy, pairs in PROXIES.items():
            if method == "ppo" and proxy == "gold":
                continue
            what = {"method": method, "combination": combination, "proxy": proxy, "pairs": pairs}
            for i in range(3):
                row = what | {"beta": math.nan, "n": math.nan, "step": math.nan, "seeds": 4, "kl_bound": math.nan}
                row |= {"optimum": {"beta": 1.0 / (i + 1)}, "best_of_n": {"n": 4.0**i}, "ppo": {"step": 10.0 * i}}[method]
                row |= {
                    "kl": 2.0 * i,
                    "proxy_gain": 0.3 * i,
                    "gold_gain": 0.2 * i,
                    "k1_estimate": 2.1 * i,
                    "k3_estimate": 1.2 * i,
                }
                row |= spread("gold_gain", 0.2 * i) | spread("k1_error", 0.1 * i, 0.3) | spread("k3_error", -0.8 * i, 0.5)
                row |= {f"{name}_se": 0.01 for name in ("kl", "proxy_gain", "k1_estimate", "k3_estimate")}
                curves.append(row | {"kl_bound": 2.2 * i if method == "best_of_n" else math.nan})
            top, end, kl, end_kl, says = PEAKS[proxy]
            row = what | {"seeds": 4, "peak_kl": kl, "peak_proxy": top, "end_gold": end, "end_kl": end_kl, "end_proxy": says}
            peaks.append(row | spread("peak_gold", top) | spread("lost", top - end, 0.0) | spread("missed", 0.9 - top))
            row = {key: what[key] for key in ("method", "combination", "proxy")} | {"kl": 4.0, "seeds": 4}
            equal.append(row | spread("gold_gain", 0.5) | spread("difference", 0.0 if method == "optimum" else -0.05))
    for proxy, pairs in list(PROXIES.items())[:2]:
        row = {"proxy": proxy, "pairs": pairs, "seeds": 4, "untrained": 1 if pairs == 64 else 0, "diverged": 0}
        for name, value in (("accuracy", 0.6), ("best_accuracy", 0.78), ("order", 0.65), ("loss", 0.6), ("best_loss", 0.4)):
            row |= spread(name, value)
        models.append(row | spread("correlation", 0.5) | spread("calibration_error", 0.12) | spread("kept_step", 20.0))
        calibration += [
            {"proxy": proxy, "pairs": pairs, "bin": i, "share": 0.5, "predicted": 0.6 + 0.2 * i, "true": 0.55} for i in (0, 1)
        ]
        training += [
            {"algorithm": "ppo", "combination": "none", "placement": "none", "level": "none", "beta": 0.1, "proxy": proxy,
             "pairs": pairs, "seed": seed, "step": step, "regret": 0.1, "kl": 1.0, "kl_estimate": 1.0,
             "status": status if (seed, step) == (1, 20) else "ok"}
            for seed in range(4) for step in (0, 20)
        ]  # fmt: skip
    by_seed = [{"proxy": proxy, "pairs": 64, "seed": 0, "status": "ok"} for proxy in ("64 pairs", "4,096 pairs")]
    names = ("overoptimisation", "peaks", "equal_kl", "reward_models", "calibration", "training", "reward_models_by_seed")
    found = (curves, peaks, equal, models, calibration, training, by_seed)
    schemas = by_table(TABLES)
    return {name: schemas[name].example(**pd.DataFrame(each).to_dict("list")) for name, each in zip(names, found, strict=True)}


def said(tables: dict[str, pd.DataFrame]) -> str:
    return plain(reward_model_section.answer(tables))


def test_the_answer_is_that_of_the_tables() -> None:
    text = said(content())
    assert (
        "a reward model of 64 pairs gains 0.30 of true reward, one of 4,096 pairs 0.74; the true reward itself, 0.90." in text
    )
    assert "Pressed on to 7.0 nats, the first falls to 0.17 while its own score says 0.62. (4 seeds, means.)" in text
    assert "64 pairs: 60 %, off by 12 %" in text
    assert "The true reward itself meets 78 % of the labels" in text
    assert "Held-out pairs confirm nothing of what 1 of 4 models of 64 pairs learned" in text
    assert "64 pairs: 0.30 at 3.5 nats, then 0.17 at 7.0: 0.13 lost" in text
    assert "4,096 pairs: 0.74 at 7.5 nats, then 0.74 at 10: hardly anything lost" in text
    assert "The best of 16 is 4.00 nats from the reference; the usual log n − (n − 1)/n says 4.40" in text
    assert "PPO, k1_reward: −0.050 (−0.055 to −0.045)" in text
    assert "k1_reward: 4.00 exact; k1 0.20 (−0.10 to 0.50), k3 −1.6 (−2.1 to −1.1)" in text
    assert "With k1_reward and none k3 is short" in text


def test_other_numbers_other_sentences() -> None:
    tables = content()
    tables["overoptimisation"]["k3_error_high"] = 0.1
    tables["peaks"]["lost_high"] = 0.0021
    tables["reward_models"]["untrained"] = 0
    text = said(tables)
    assert "k3 is short" not in text
    assert "hardly anything lost" not in text
    assert "Held-out pairs confirm nothing" not in text


def test_what_diverged_is_told() -> None:
    text = said(content("diverged at update 3: the loss is nan"))
    assert "Policies that did are left out of all means; of a reward model counts" in text
    assert "2 replicas diverged (none, 64 pairs, seed 1: diverged at update 3" in text


def test_one_seed_has_no_intervals() -> None:
    tables = content()
    for name in ("overoptimisation", "peaks", "equal_kl", "reward_models"):
        columns = [column for column in tables[name] if column.endswith(("_low", "_high"))]
        tables[name][columns] = math.nan
    tables["overoptimisation"][[c for c in tables["overoptimisation"] if c.endswith("_se")]] = math.nan
    assert "nan" not in said(tables)


def test_figures_and_tables(make_run: MakeRun) -> None:
    page = render(make_run("reward_model", content(), study="reward_model"))
    text = page.read_text(encoding="utf-8")
    for name in ("overoptimisation", "overoptimisation-calibration", "overoptimisation-kl"):
        assert (page.parent / "figures" / f"{name}.svg").is_file()
    assert "Where the true reward peaks" in text
    assert "Other tables" not in text
    assert "What training makes of it" not in text


@pytest.mark.parametrize("missing", [name for name in sorted(content()) if name != "overoptimisation"])
def test_a_table_that_is_missing_costs_its_own_part_only(make_run: MakeRun, missing: str) -> None:
    tables = content()
    del tables[missing]
    assert "True reward and proxy, by pairs" in render(make_run("reward_model", tables, study="reward_model")).read_text(
        encoding="utf-8"
    )


def test_several_runs_stand_apart(make_run: MakeRun, tmp_path: Path) -> None:
    folders = [
        make_run("a", content(), study="reward_model", config="scale: 5\n"),
        make_run("b", content(), study="reward_model", config="scale: 2\n"),
    ]
    out = tmp_path / "both.html"
    combine(folders, out)
    text = out.read_text(encoding="utf-8")
    assert "scale=5: Held back in time" in text
    assert "scale=2: Held back in time" in text
