"""The DPO study, from settings to tables."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from experiments import configured

from klbench.context import Context
from klbench.engine import app
from klbench.rlhf import testbed
from klbench.rlhf.testbed import dpo_world
from klbench.runs import RunFolder
from klbench.studies import get
from klbench.studies.dpo import estimates
from klbench.studies.dpo.columns import TABLES
from klbench.studies.dpo.tables import START_OUTCOMES, complete, enough
from klbench.studies.dpo.tasks import optimum_rows, perform
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
    "arm",
    "pairs",
    "divergence",
    "smoothing",
    "kl_to_own",
    "population_loss",
    "status",
}
TINY = {
    "vocabulary": 2,
    "horizon": 2,
    "prompts": 2,
    "width": 4,
    "seeds": 5,
    "steps": 20,
    "every": 10,
    "comparisons": (16, 256),
    "divergences": ("kl_qp", "kl_pq"),
    "smoothings": (0.2,),
    "completions": 40,
    "learning_rate": 0.05,
}
ARMS = ["dpo", "f-dpo kl_pq", "dpo smoothed 0.2"]


def tables(workers=1, seed=0, **changes) -> dict[str, pd.DataFrame]:
    return dict(get("dpo").run(configured("dpo", **TINY | changes), Context(seed, workers=workers)))


@pytest.fixture(scope="module")
def trained() -> dict[str, pd.DataFrame]:
    return tables()


def test_the_tables_and_their_columns(trained) -> None:
    assert set(trained) == {
        "training",
        "dpo_final",
        "dpo_curves",
        "dpo_rates",
        "dpo_optima",
        "dpo_estimates",
        "dpo_seen",
    }
    training = trained["training"]
    assert set(training.columns) >= PROMISED
    assert len(training) == 3 * 3 * 5 * 3
    assert set(training["algorithm"]) == {"dpo"}
    assert set(training["status"]) == {"ok"}
    assert list(training["pairs"].unique()) == [16, 256, math.inf]
    assert np.allclose(training["regret"], 0.2 * training["kl_to_optimum"], atol=1e-9)
    start = training[training["step"] == 0]
    assert np.allclose(start["loss"], math.log(2))
    assert np.allclose(start["kl"], 0.0, atol=1e-12)
    standard = training[training["arm"] == "dpo"]
    assert np.allclose(standard["kl_to_optimum"], standard["kl_to_own"], atol=1e-9)
    every = training[np.isinf(training["pairs"])]
    assert np.allclose(every["loss"], every["population_loss"], rtol=1e-12)


def test_final_is_paired_with_the_standard(trained) -> None:
    final = trained["dpo_final"].set_index(["arm", "pairs"])
    runs = trained["training"].query("pairs == 256")
    last = runs.query("step == 20").pivot_table(index="seed", columns="arm", values="kl_to_optimum")
    difference = last["f-dpo kl_pq"] - last["dpo"]
    row = final.loc[("f-dpo kl_pq", 256)]
    assert row["last_difference"] == pytest.approx(difference.mean())
    assert row["last_effect_size"] == pytest.approx(difference.mean() / difference.std())
    assert row["last_difference_low"] < row["last_difference"] < row["last_difference_high"]
    best = runs.groupby(["arm", "seed"])["kl_to_optimum"].min()
    assert row["best"] == pytest.approx(best["f-dpo kl_pq"].mean())
    assert bool((trained["dpo_final"]["best"] <= trained["dpo_final"]["stopped"] + 1e-12).all())
    assert bool((trained["dpo_final"]["best"] <= trained["dpo_final"]["last"] + 1e-12).all())
    assert final.loc[("dpo", 256), "outcome"] == "the comparison"


def test_places_are_paired_with_the_loss_that_ends_nearest(trained) -> None:
    final = trained["dpo_final"]
    last = (
        trained["training"]
        .query("step == 20")
        .pivot_table(index="seed", columns=["pairs", "arm"], values="kl_to_optimum")
    )
    start = (
        trained["training"]
        .query("step == 0 and arm == 'dpo' and pairs == 16")
        .set_index("seed")["kl_to_optimum"]
    )
    for row in final.to_dict("records"):
        ends = last[row["pairs"]]
        nearest = ends.mean().idxmin()
        assert row["nearest_difference"] == pytest.approx(
            (ends[row["arm"]] - ends[nearest]).mean(), abs=1e-12
        )
        assert (row["place"] == "nearest") == (row["arm"] == nearest)
        assert row["last_start_difference"] == pytest.approx((ends[row["arm"]] - start).mean())
        nearer = row["last_start_difference_high"] < 0
        assert (row["start_outcome"] == "nearer than the reference") == nearer


@pytest.mark.parametrize(
    ("nearer", "pairs"),
    [
        ((False, True, True), 64.0),
        ((True, False, True), math.inf),
        ((True, True, False), math.nan),
        ((True, True, True), 16.0),
    ],
)
def test_pairs_are_enough_from_which_on_all_end_nearer_than_the_reference(nearer, pairs) -> None:
    words = [START_OUTCOMES[0] if each else START_OUTCOMES[1] for each in nearer]
    final = pd.DataFrame({"pairs": [16.0, 64.0, math.inf], "start_outcome": words})
    assert enough(final) == pytest.approx(pairs, nan_ok=True)


def test_earlier_tables_are_completed_as_they_would_be_written_today(trained) -> None:
    new = {
        schema.table: [column.name for column in schema.columns if column.since]
        for schema in TABLES
    }
    earlier = {name: table.drop(columns=new[name]) for name, table in trained.items()}
    for name, table in complete(earlier).items():
        pd.testing.assert_frame_equal(table, trained[name], check_like=True)


def test_the_optima_are_exact(trained) -> None:
    optima = trained["dpo_optima"].set_index("arm")
    assert list(optima.index) == ARMS
    assert bool((optima["residual"] < 1e-10).all())
    assert abs(optima.loc["dpo", "own_kl_to_optimum"]) < 1e-12
    assert optima.loc["f-dpo kl_pq", "own_kl_to_optimum"] > 0.01
    assert optima.loc["f-dpo kl_pq", "own_slope"] == pytest.approx(1.0)
    assert optima.loc["dpo smoothed 0.2", "own_slope"] < 0.9


def test_enough_pairs_and_steps_reach_the_optimum() -> None:
    options = configured(
        "dpo", **TINY | {"model": "table", "steps": 1500, "every": 1500, "learning_rate": 0.1}
    )
    rows = pd.DataFrame(perform(options, 0, math.inf, (0, 1))["training"])
    last = rows[rows["step"] == 1500]
    assert bool((last.query("arm == 'dpo'")["kl_to_optimum"] < 1e-3).all())
    assert np.allclose(last.query("arm == 'dpo'")["reward_slope"], 1.0, atol=0.1)
    assert bool((last.query("arm == 'dpo smoothed 0.2'")["kl_to_own"] < 1e-3).all())


def test_rates_are_lines_through_logarithms(trained) -> None:
    runs = trained["training"]
    finite = runs[np.isfinite(runs["pairs"]) & (runs["step"] == 20) & (runs["arm"] == "dpo")]
    grid = finite.pivot_table(index="seed", columns="pairs", values="kl_to_optimum")
    slopes = np.log(grid[256] / grid[16]) / np.log(16)
    rates = trained["dpo_rates"].set_index("arm")
    assert rates.loc["dpo", "last_exponent"] == pytest.approx(slopes.mean())


def test_estimators_by_enumeration() -> None:
    options = configured("dpo", **TINY)
    bed = testbed.Testbed.of(options, 0, (0, 1))
    log_probs = (
        bed.log_p + 0.8 * torch.randn(bed.log_p.shape, generator=torch.Generator().manual_seed(1))
    ).log_softmax(-1)
    log_q = bed.tree.sum_along(log_probs)
    exact = (log_q.exp() * (log_q - bed.leaf_log_p)).sum(-1)
    views = estimates.views(bed, log_probs)
    for key in (("k1", "sequence"), ("k3", "sequence"), ("k3", "token"), ("full", "token")):
        torch.testing.assert_close((log_q.exp() * views[key]).sum(-1), exact, rtol=1e-9, atol=1e-12)
    whole = (log_q.exp() * (log_q - bed.leaf_log_p) ** 2 / 2).sum(-1)
    torch.testing.assert_close((log_q.exp() * views["k2", "sequence"]).sum(-1), whole)
    n = 20_000
    for row in estimates.rows(bed, log_probs, dpo_world.sampled(bed, n, 1.0), n, n, 3):
        assert abs(row["estimate"] - row["expected"]) <= 5 * row["estimate_se"]
    told = estimates.k1(bed, log_q[None], n, 3)
    assert bool(
        ((told["kl_estimate"][0] - exact.mean(-1)).abs() <= 5 * told["kl_estimate_se"][0]).all()
    )


def test_what_was_told_of_the_kl(trained) -> None:
    seen = trained["dpo_seen"].set_index(["pairs", "samples_of", "estimator", "level"])
    assert abs(seen.loc[(256, "policy", "k1", "sequence"), "rel_bias"]) < 1e-9
    assert seen.loc[(256, "policy", "k2", "sequence"), "rel_bias"] > 1e-3
    told = trained["dpo_estimates"]
    assert set(told["step"]) == {10, 20}
    assert set(told["samples_of"]) == {"policy", "reference", "pairs"}
    assert np.allclose(told["error"], told["estimate"] - told["kl"])


def test_the_same_bits_whatever_the_workers_and_the_other_seeds(trained) -> None:
    for name, table in tables(workers=2).items():
        pd.testing.assert_frame_equal(table, trained[name], check_exact=True)
    few = tables(seeds=1, comparisons=(16,), divergences=("kl_qp",), smoothings=())["training"]
    every = trained["training"]
    same = every[
        (every["seed"] == 0) & (every["arm"] == "dpo") & every["pairs"].isin([16, math.inf])
    ]
    pd.testing.assert_frame_equal(few, same.reset_index(drop=True), check_exact=True)


def test_an_interrupted_run_continues_to_the_same_bits(trained, tmp_path) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    study, folder = get("dpo"), RunFolder(tmp_path)
    context = Context(0, folder=folder, progress=stop)
    partial = study.run(configured("dpo", **TINY), context)
    assert context.interrupted
    assert list(partial["training"]["pairs"].unique()) == [256, math.inf]
    assert len(list((tmp_path / "parts").iterdir())) == 3
    for name, table in study.run(configured("dpo", **TINY), Context(0, folder=folder)).items():
        pd.testing.assert_frame_equal(table, trained[name], check_exact=True)


def test_flipped_labels_have_an_optimum_of_their_own() -> None:
    plain, flipped = (
        pd.DataFrame(optimum_rows(configured("dpo", **TINY | {"flips": flips}), 0, (0,))).set_index(
            "arm"
        )
        for flips in (0.0, 0.2)
    )
    assert flipped.loc["dpo", "kl_to_optimum"] == pytest.approx(
        plain.loc["dpo smoothed 0.2", "kl_to_optimum"]
    )
    assert flipped.loc["dpo smoothed 0.2", "kl_to_optimum"] > flipped.loc["dpo", "kl_to_optimum"]
    assert bool((flipped["residual"] < 1e-10).all())


def test_a_failure_is_told_in_its_own_rows(monkeypatch) -> None:
    step = dpo_world.PreferenceReplicas.step

    def poisoned(self, loss, number):
        place = loss.new_zeros(loss.shape)
        place[1, 1] = math.nan if number == 12 else 0.0
        step(self, loss + place, number)

    monkeypatch.setattr(dpo_world.PreferenceReplicas, "step", poisoned)
    rows = perform(configured("dpo", **TINY), 0, 16, (0, 1))["training"]
    told = {
        (row["arm"], row["seed"], row["step"], row["status"])
        for row in rows
        if row["status"] != "ok"
    }
    assert told == {("f-dpo kl_pq", 1, 20, "diverged at step 12: the loss is nan")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"divergences": ["js"]}, "divergences must have kl_qp"),
        ({"divergences": ["kl_qp", "jss"]}, "unknown divergence 'jss'; did you mean 'js'"),
        ({"divergences": ["kl_qp", "alpha:-1"]}, "alpha must be > 0"),
        ({"divergences": ["kl_qp", "kl_qp"]}, "each divergence once"),
        ({"smoothings": [0.5]}, "must be less than 0.5"),
        ({"comparisons": [0]}, "must be at least 1"),
        ({"flips": 0.7}, "flips=0.7: must be less than 0.5"),
        ({"vocabulary": 12}, "at most 400,000 are summed"),
        ({"scale": 0}, "scale=0: must be greater than 0"),
        ({"preset": "quick"}, "unknown preset 'quick'; available: default, thorough"),
        ({"stepss": 3}, "unknown key 'stepss'; did you mean 'steps'?"),
    ],
)
def test_bad_settings_get_one_line(change, message) -> None:
    with pytest.raises(ConfigError) as error:
        configured("dpo", **change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_presets_give_way_to_keys() -> None:
    assert configured("dpo").seeds == 8
    thorough = configured("dpo", preset="thorough", seeds=3)
    assert thorough.seeds == 3
    assert len(thorough.arms) > len(configured("dpo").arms)
    assert configured("dpo").arms[2].beta == pytest.approx(
        4.0
    )  # a fourth of the curvature, four times the weight


def test_from_the_command_line(tmp_path) -> None:
    overrides = [f"++{key}={json.dumps(value)}" for key, value in TINY.items()]
    run = app.run("dpo", *overrides, f"out={tmp_path / 'run'}", "seeds=2", "workers=1", "batch=8")
    assert (run.path / "index.html").is_file()
    assert (run.path / "tables" / "training.csv").is_file()
    summaries = get("dpo").summarize(run.tables)
    assert [len(summary.rows) for summary in summaries] == [3, 3, 3]


def test_what_diverged_is_in_no_mean(monkeypatch) -> None:
    step = dpo_world.PreferenceReplicas.step

    def poisoned(self, loss, update):
        place = loss.new_zeros(loss.shape)
        if update == 6:
            place[0, 0] = place[1, 1] = place[2] = math.nan
        step(self, loss + place, update)

    monkeypatch.setattr(dpo_world.PreferenceReplicas, "step", poisoned)
    found = tables(seeds=3)
    final = found["dpo_final"].query("pairs == 256").set_index("arm")
    last = (
        found["training"]
        .query("pairs == 256 and step == 20")
        .pivot_table(index="seed", columns="arm", values="kl_to_optimum")
    )
    standard, other, gone = (final.loc[name] for name in ARMS)
    assert standard["last"] == pytest.approx(last["dpo"][[1, 2]].mean())
    assert (other["seeds"], other["diverged"], other["outcome"]) == (2, 1, "diverged on some seeds")
    assert other["last_difference_seeds"] == 1
    assert other["last_start_difference_seeds"] == 2
    assert other["last_difference"] == pytest.approx(last[ARMS[1]][2] - last["dpo"][2])
    assert (gone["seeds"], gone["diverged"], gone["outcome"]) == (0, 3, "diverged on all seeds")
    assert (
        gone[["last", "last_low", "best", "stopped", "last_difference", "kl", "best_kl"]]
        .isna()
        .all()
    )
    curves = found["dpo_curves"].query("pairs == 256 and arm == @ARMS[1]")
    assert list(curves["seeds"]) == [3, 2, 2]
    assert found["dpo_rates"].set_index("arm").loc[ARMS[1], "seeds"] == 2
