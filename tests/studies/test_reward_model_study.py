"""The reward-model study, from settings to tables."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from experiments import configured
from scipy.stats import ttest_1samp, ttest_rel

from klbench.context import Context
from klbench.engine import app
from klbench.studies import get
from klbench.types import ConfigError

PROMISED = {
    "algorithm",
    "estimator",
    "placement",
    "level",
    "seed",
    "step",
    "reward",
    "kl",
    "kl_estimate",
    "objective",
    "regret",
    "kl_to_optimum",
    "gold",
    "proxy",
    "pairs",
    "status",
}
TINY = {
    "vocabulary": 2,
    "horizon": 3,
    "prompts": 2,
    "width": 4,
    "seeds": 5,
    "updates": 20,
    "every": 10,
    "group": 4,
    "combinations": ("k1_reward", "none"),
    "learning_rate": 0.05,
    "sizes": (20, 2000),
    "model_steps": 60,
    "model_width": 4,
    "betas": (1.0, 0.1, 0.01),
    "best_of": (1, 4, 64),
    "beta": 0.1,
}


def tables(workers=1, seed=0, **changes) -> dict[str, pd.DataFrame]:
    return dict(
        get("reward_model").run(
            configured("reward_model", **TINY | changes), Context(seed, workers=workers)
        )
    )


@pytest.fixture(scope="module")
def found() -> dict[str, pd.DataFrame]:
    return tables()


def test_the_tables_and_their_columns(found) -> None:
    assert set(found) == {
        "overoptimisation",
        "overoptimisation_by_seed",
        "peaks",
        "equal_kl",
        "reward_models",
        "reward_models_by_seed",
        "calibration",
        "training",
    }
    training = found["training"]
    assert set(training.columns) >= PROMISED
    assert len(training) == 2 * 2 * 5 * 3
    assert np.allclose(training["regret"], 0.1 * training["kl_to_optimum"], atol=1e-9)
    start = training[training["step"] == 0]
    for column in ("reward", "gold", "kl", "k1_estimate", "k3_estimate"):
        assert float(start[column].abs().max()) < 1e-12
    assert len(found["overoptimisation_by_seed"]) == (3 + 3) * 3 * 5
    assert len(found["overoptimisation"]) == (3 + 3) * 3 + 2 * 2 * 3


def test_means_are_those_of_the_seeds(found) -> None:
    by_seed, curves = found["overoptimisation_by_seed"], found["overoptimisation"]
    mine = by_seed.query("method == 'best_of_n' and proxy == '20 pairs' and n == 64")
    row = curves.query("method == 'best_of_n' and proxy == '20 pairs' and n == 64").iloc[0]
    assert row["gold_gain"] == pytest.approx(mine["gold_gain"].mean())
    ends = ttest_1samp(mine["gold_gain"], 0.0).confidence_interval(0.95)
    assert (row["gold_gain_low"], row["gold_gain_high"]) == pytest.approx(tuple(ends))
    assert row["kl_bound"] == pytest.approx(math.log(64) - 63 / 64)
    assert row["kl"] <= row["kl_bound"]
    last = found["training"].query("combination == 'none' and pairs == 2000 and step == 20")
    row = curves.query("combination == 'none' and pairs == 2000 and step == 20").iloc[0]
    assert row["proxy_gain"] == pytest.approx(last["reward"].mean())
    assert row["k3_error"] == pytest.approx((last["k3_estimate"] - last["kl"]).mean())
    ends = ttest_rel(last["k3_estimate"], last["kl"]).confidence_interval(0.95)
    assert (row["k3_error_low"], row["k3_error_high"]) == pytest.approx(tuple(ends))


def test_more_pairs_better_models_and_more_of_the_true_reward(found) -> None:
    few, many = (found["reward_models"].query(f"pairs == {n}").iloc[0] for n in (20, 2000))
    assert many["accuracy"] > few["accuracy"]
    assert many["accuracy"] <= many["best_accuracy"] + 0.01
    assert many["order"] > few["order"]
    assert many["correlation"] > few["correlation"]
    assert many["loss"] > many["best_loss"]
    assert many["calibration_error"] < 0.1
    peaks = found["peaks"].query("method == 'optimum'").set_index("proxy")
    assert list(peaks["peak_gold"]) == sorted(peaks["peak_gold"])
    assert bool((found["peaks"]["lost"] >= 0).all())
    assert float(peaks.loc["gold", "lost"]) == 0.0
    assert float(peaks.loc["gold", "missed"]) == 0.0
    assert peaks.loc["20 pairs", "end_proxy"] > peaks.loc["20 pairs", "end_gold"]


def test_peaks_by_hand(found) -> None:
    by_seed = found["overoptimisation_by_seed"].query("method == 'optimum' and proxy == '20 pairs'")
    ideal = (
        found["overoptimisation_by_seed"]
        .query("method == 'optimum' and proxy == 'gold'")
        .groupby("seed")["gold_gain"]
        .max()
    )
    peak = by_seed.groupby("seed")["gold_gain"].max()
    end = by_seed.loc[by_seed.groupby("seed")["kl"].idxmax()].set_index("seed")["gold_gain"]
    row = found["peaks"].query("method == 'optimum' and proxy == '20 pairs'").iloc[0]
    assert row["peak_gold"] == pytest.approx(peak.mean())
    assert row["lost"] == pytest.approx((peak - end).mean())
    assert row["missed"] == pytest.approx((ideal - peak).mean())


def test_at_equal_kl_the_optimum_of_the_true_reward_has_the_most(found) -> None:
    table = found["equal_kl"]
    assert bool((table.query("method == 'optimum'")["difference"] == 0.0).all())
    assert bool((table.query("method == 'best_of_n' and proxy == 'gold'")["difference"] < 0).all())
    assert bool((table["seeds"] <= 5).all())


def test_calibration_has_all_pairs(found) -> None:
    shares = found["calibration"].groupby("pairs")["share"].sum()
    assert np.allclose(shares, 1.0)
    assert bool(found["calibration"]["predicted"].between(0.5, 1.0).all())


def test_the_same_bits_whatever_the_workers_and_the_others(found) -> None:
    other = tables(workers=2)
    for name, table in other.items():
        pd.testing.assert_frame_equal(table, found[name], check_exact=True)
    few = tables(seeds=1)["training"]
    mine = found["training"].query("seed == 0").reset_index(drop=True)
    assert np.allclose(few["gold"], mine["gold"], atol=1e-9)


def test_wrong_settings() -> None:
    for changes, said in (
        ({"sizes": (20, 20)}, "each number once"),
        ({"betas": ()}, "must name at least one"),
        ({"sizes": (3,)}, "10"),
        ({"horizon": 10, "vocabulary": 4}, "are scored in every step"),
        ({"combinations": ("k1_rewerd",)}, "k1_reward"),
        ({"smoothing": 0.7}, "0.5"),
    ):
        with pytest.raises(ConfigError, match=said):
            configured("reward_model", **TINY | changes)


def test_from_the_command_line(tmp_path) -> None:
    out = tmp_path / "run"
    overrides = [f"++{key}={json.dumps(value)}" for key, value in (TINY | {"seeds": 2}).items()]
    run = app.run("reward_model", *overrides, f"out={out}", "workers=1")
    assert run.status == "done"
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "True reward and proxy, by pairs" in page
    assert "Other tables" not in page


def test_policies_that_diverged_are_in_no_mean(monkeypatch) -> None:
    from klbench.rlhf.testbed.ppo_world import Replicas

    step = Replicas.step

    def poisoned(self, loss, update):
        place = loss.new_zeros(loss.shape)  # of proxies times seeds
        if update == 15:
            place[0, 0], place[1] = math.nan, math.nan
        step(self, loss + place, update)

    monkeypatch.setattr(Replicas, "step", poisoned)
    found = tables(seeds=2)
    last = (
        found["training"]
        .query("combination == 'k1_reward' and pairs == 20 and step == 20")
        .set_index("seed")
    )
    assert str(last.loc[0, "status"]).startswith("diverged at update 15")
    row = found["peaks"].query("combination == 'k1_reward' and pairs == 20").iloc[0]
    assert (row["seeds"], row["diverged"]) == (1, 1)
    assert row["end_gold"] == last.loc[1, "gold"]
    gone = found["peaks"].query("combination == 'none'")
    assert set(gone["diverged"]) == {2}
    assert gone[["end_gold", "peak_gold", "lost", "lost_low"]].isna().all(axis=None)
    curve = (
        found["overoptimisation"]
        .query("combination == 'k1_reward' and pairs == 20 and step == 20")
        .iloc[0]
    )
    assert (curve["seeds"], curve["diverged"]) == (1, 1)
    assert curve["gold_gain"] == last.loc[1, "gold"]
    assert "none" not in set(found["equal_kl"]["combination"])
    assert set(found["peaks"].query("combination == ''")["diverged"]) == {0}
