"""The training study, from settings to tables."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from experiments import configured
from scipy.stats import t, ttest_rel

from klbench.context import Context
from klbench.engine import app
from klbench.rlhf import testbed
from klbench.rlhf.testbed import fixed_points
from klbench.runs import RunFolder
from klbench.studies import get
from klbench.studies.ppo.tasks import Task, chunks, perform, plan
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
    "beta",
    "combination",
    "correction",
    "baseline",
    "kl_estimate_se",
    "clip_fraction",
    "status",
}
TINY = {
    "vocabulary": 2,
    "horizon": 3,
    "prompts": 2,
    "width": 4,
    "seeds": 5,
    "updates": 12,
    "every": 4,
    "group": 4,
    "combinations": ("k1_reward", "k2_sequence_loss", "k2_loss", "k3_loss", "k1_loss", "none"),
    "learning_rate": 0.05,
    "frontier": ("k1_reward", "k3_loss"),
    "betas": (0.1, 0.4),
    "frontier_seeds": 2,
    "noise_free_seeds": 2,
    "recovery": ("k1_reward", "k3_loss"),
    "recovery_nats": (2.0, 6.0),
}


def tables(workers=1, seed=0, **changes) -> dict[str, pd.DataFrame]:
    study = get("ppo")
    return dict(study.run(configured("ppo", **TINY | changes), Context(seed, workers=workers)))


@pytest.fixture(scope="module")
def trained() -> dict[str, pd.DataFrame]:
    return tables()


def test_the_tables_and_their_columns(trained) -> None:
    assert set(trained) == {
        "training",
        "final",
        "curves",
        "frontier",
        "matched",
        "noise_free",
        "fixed_points",
        "combinations",
        "recovery",
        "recovery_curves",
    }
    training = trained["training"]
    assert set(training.columns) >= PROMISED
    assert len(training) == 6 * 5 * 4
    assert set(training["step"]) == {0, 4, 8, 12}
    assert set(training["status"]) == {"ok"}
    assert np.allclose(training["regret"], 0.2 * training["kl_to_optimum"], atol=1e-9)
    assert np.allclose(training["objective"], training["reward"] - 0.2 * training["kl"])
    assert bool((training.loc[training["step"] == 0, "kl"].abs() < 1e-12).all())


def test_final_has_paired_differences(trained) -> None:
    final = trained["final"].set_index("combination")
    last = (
        trained["training"]
        .query("step == 12")
        .pivot_table(index="seed", columns="combination", values="regret")
    )
    difference = last["k3_loss"] - last["k1_reward"]
    row = final.loc["k3_loss"]
    assert row["difference"] == pytest.approx(difference.mean())
    assert row["effect_size"] == pytest.approx(difference.mean() / difference.std())
    assert row["difference_low"] < row["difference"] < row["difference_high"]
    first = (
        trained["training"]
        .query("step == 0")
        .pivot_table(index="seed", columns="combination", values="regret")
    )
    for name, row in final.iterrows():
        ends = ttest_rel(last[name], first[name]).confidence_interval(0.95)
        assert (row["start_difference_low"], row["start_difference_high"]) == pytest.approx(
            tuple(ends)
        )
        assert (row["outcome"] == "worse than not training") == (ends.low > 0)
    assert final.loc["k1_reward", "difference"] == 0.0
    assert final.loc["k1_reward", "outcome"] == "the comparison"
    assert dict(final["fixed_point"]) == {
        "k1_reward": "optimum",
        "k2_sequence_loss": "optimum",
        "k2_loss": "token_kl",
        "k3_loss": "token_k3",
        "k1_loss": "greedy",
        "none": "greedy",
    }


def test_fixed_points_beside_what_was_reached(trained) -> None:
    points = trained["fixed_points"].set_index("combination")
    assert bool((points["residual"] < fixed_points.VANISHES).all())
    assert abs(points.loc["k1_reward", "predicted_regret"]) < 1e-12
    for name in ("k1_reward", "k2_loss", "k3_loss"):
        assert points.loc[name, "free_regret"] == pytest.approx(
            points.loc[name, "predicted_regret"], abs=5e-3
        )
    assert points.loc["none", "predicted_regret"] > points.loc["none", "noise_free_regret"]
    same = (
        trained["noise_free"]
        .drop_duplicates("combination")
        .set_index("combination")["same_gradient_as"]
    )
    assert dict(same) == {
        "k1_reward": "k1_reward",
        "k2_sequence_loss": "k1_reward",
        "k2_loss": "k2_loss",
        "k3_loss": "k3_loss",
        "k1_loss": "k1_loss",
        "none": "k1_loss",
    }


def test_a_combination_without_a_fixed_point_has_no_place_of_rest() -> None:
    found = tables(
        seeds=2,
        updates=4,
        combinations=("k1_reward", "k3_reward", "k3_sequence_loss"),
        frontier=(),
        recovery=(),
    )
    points = found["fixed_points"].set_index("combination")
    assert points.loc["k3_reward", "fixed_point"] == ""
    assert (
        points.loc["k3_reward", [column for column in points if column.startswith("free_")]]
        .isna()
        .all()
    )
    assert math.isfinite(points.loc["k3_reward", "noise_free_regret"])
    row = points.loc["k3_sequence_loss"]
    assert row["free_regret"] == pytest.approx(row["predicted_regret"], abs=1e-4)
    assert row["free_residual"] <= 1e-6
    assert row["free_unsettled"] == 0
    assert row["free_steps"] >= 300


def test_the_way_to_a_floor_is_paired_by_seed(trained) -> None:
    """By hand, of the two seeds of the prediction.

    The ratio of means, and Student's interval of it to first order.
    """
    bed = testbed.Testbed("gru", 2, 3, 2, 4, 0, (0, 1))
    beta = torch.tensor([0.2], dtype=torch.float64)
    aim = bed.exact(fixed_points.predicted(bed, "token_k3", beta), beta).regret[0].numpy()
    mine = (
        trained["training"]
        .query("combination == 'k3_loss' and seed < 2")
        .pivot_table("regret", "seed", "step")
    )
    gone, whole = (mine[0] - mine[12]).to_numpy(), mine[0].to_numpy() - aim
    way = gone.mean() / whole.mean()
    half = t.ppf(0.975, 1) * np.std(gone - way * whole, ddof=1) / math.sqrt(2) / whole.mean()
    row = trained["fixed_points"].set_index("combination").loc["k3_loss"]
    found = row[["sampled_way", "sampled_way_low", "sampled_way_high"]]
    assert tuple(found) == pytest.approx((way, way - abs(half), way + abs(half)))


def test_without_k1_in_the_reward_the_first_is_the_comparison(tmp_path) -> None:
    changes = {
        "combinations": "[k3_loss,k2_sequence_loss,none]",
        "frontier": "[k3_loss,k2_sequence_loss]",
        "betas": "[0.1]",
        "recovery": "[]",
        "seeds": 3,
    }
    settings = [
        f"{key}={value}" for key, value in (TINY | changes).items() if not isinstance(value, tuple)
    ]
    run = app.run("ppo", *settings, "workers=1", f"out={tmp_path / 'run'}")
    found = run.tables
    final = found["final"].set_index("combination")
    assert final.loc["k3_loss", "difference"] == 0.0
    assert final.loc["k3_loss", "outcome"] in ("the comparison", "worse than not training")
    last = found["training"].query("step == 12").set_index(["combination", "seed"])["regret"]
    expected = (last["k2_sequence_loss"] - last["k3_loss"]).mean()
    assert final.loc["k2_sequence_loss", "difference"] == pytest.approx(expected)
    assert set(found["matched"]["combination"]) <= {"k2_sequence_loss"}
    page = (run.path / "index.html").read_text()
    assert "the same less that of <code>k3_<wbr>loss</code>, seed by seed" in page
    assert "less that of k1_reward" not in page


def test_the_frontier(trained) -> None:
    frontier, matched = trained["frontier"], trained["matched"]
    assert len(frontier) == 2 * 3
    assert bool((frontier["shortfall"] > 0).all())
    assert np.allclose(frontier["shortfall"], frontier["frontier_reward"] - frontier["reward"])
    kl = frontier.query("combination == 'k1_reward'").sort_values("beta")["kl"]
    assert list(kl) == sorted(kl, reverse=True)
    assert set(matched["combination"]) == {"k3_loss"}
    assert set(matched["beta"]) <= {0.1, 0.2, 0.4}


def test_the_same_bits_whatever_the_workers(trained) -> None:
    other = tables(workers=2, noise_free_seeds=0, frontier=())
    del other["fixed_points"]
    for name, table in other.items():
        pd.testing.assert_frame_equal(table, trained[name], check_exact=True)


def test_an_interrupted_run_continues_to_the_same_bits(trained, tmp_path) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    study, options, folder = get("ppo"), configured("ppo", **TINY), RunFolder(tmp_path)
    context = Context(0, folder=folder, progress=stop)
    partial = study.run(options, context)
    assert context.interrupted
    assert set(partial["training"]["seed"]) == set(range(5))
    assert "noise_free" not in partial
    kept = {path.stem for path in (tmp_path / "parts").iterdir()}
    assert len(kept) == 3
    again = study.run(options, Context(0, folder=folder))
    assert {path.stem for path in (tmp_path / "parts").iterdir()} > kept
    for name, table in trained.items():
        pd.testing.assert_frame_equal(again[name], table, check_exact=True)


def test_neither_others_seeds_nor_others_combinations_matter(trained) -> None:
    few = tables(seeds=1, combinations=("k1_reward", "k3_loss"), frontier=(), noise_free_seeds=0)[
        "training"
    ]
    all_of_them = trained["training"]
    same = all_of_them[
        (all_of_them["seed"] == 0) & all_of_them["combination"].isin(["k1_reward", "k3_loss"])
    ]
    pd.testing.assert_frame_equal(few, same.reset_index(drop=True), check_exact=True)


def test_one_seed_has_no_intervals_and_says_so() -> None:
    final = tables(seeds=1, updates=4, frontier=(), noise_free_seeds=0)["final"].set_index(
        "combination"
    )
    assert math.isnan(final.loc["k3_loss", "difference_low"])
    assert final.loc["k2_loss", "outcome"] == "too few seeds to tell"


def test_another_seed_another_run(trained) -> None:
    other = tables(seed=1, seeds=2, frontier=(), noise_free_seeds=0)["training"]
    assert not np.allclose(
        other["regret"].to_numpy()[:4], trained["training"]["regret"].to_numpy()[:4]
    )


def test_a_failure_is_told_in_its_own_rows(monkeypatch) -> None:
    from klbench.rlhf.testbed.ppo_world import Replicas

    step = Replicas.step

    def poisoned(self, loss, update):
        place = loss.new_zeros(loss.shape)
        place[1, 1] = math.nan if update == 6 else 0.0
        step(self, loss + place, update)

    monkeypatch.setattr(Replicas, "step", poisoned)
    options = configured("ppo", **TINY)
    rows = perform(options, 0, Task("sampled", options.combinations, (0.2,), (0, 1)))
    told = {(row["combination"], row["seed"], row["step"]) for row in rows if row["status"] != "ok"}
    assert told == {("k2_sequence_loss", 1, step) for step in (8, 12)}
    statuses = {row["status"] for row in rows} - {"ok"}
    assert statuses == {"diverged at update 6: the loss is nan"}


def test_what_diverged_is_in_no_mean() -> None:
    """Steps of 10 nats: the weight of a token that the policy has left overflows, for some seeds
    and combinations.
    """
    found = tables(
        learning_rate=10.0,
        updates=40,
        every=20,
        combinations=("k1_reward", "k3_loss", "k3_sequence_loss"),
    )
    training, final = found["training"], found["final"].set_index("combination")
    last = training[training["step"] == 40].set_index("seed")
    diverged = last[last["status"] != "ok"].groupby("combination").size()
    assert diverged["k3_loss"] > 0
    for name, row in final.iterrows():
        assert row["diverged"] == diverged.get(name, 0)
        assert row["seeds"] == 5 - row["diverged"]
    kept, base = (
        last[(last["combination"] == name) & (last["status"] == "ok")]["regret"]
        for name in ("k3_loss", "k1_reward")
    )
    row = final.loc["k3_loss"]
    assert (row["regret"], row["difference"]) == pytest.approx(
        (kept.mean(), (kept - base).mean()), nan_ok=True
    )
    assert row["difference_seeds"] == len(kept.index.intersection(base.index))


def test_where_all_seeds_diverged_nothing_is_said_of_the_end(monkeypatch) -> None:
    from klbench.rlhf.testbed.ppo_world import Replicas

    step = Replicas.step

    def poisoned(self, loss, update):
        place = loss.new_zeros(loss.shape)
        place[1] = math.nan if update == 6 else 0.0
        step(self, loss + place, update)

    monkeypatch.setattr(Replicas, "step", poisoned)
    found = tables(seeds=3, combinations=("k1_reward", "k3_loss"), noise_free_seeds=1)
    row = found["final"].set_index("combination").loc["k3_loss"]
    assert row["outcome"] == "diverged on all seeds"
    assert (row["seeds"], row["diverged"], row["difference_seeds"]) == (0, 3, 0)
    assert (
        row[
            [
                "regret",
                "regret_low",
                "difference",
                "difference_low",
                "kl",
                "reward",
                "estimate_error",
            ]
        ]
        .isna()
        .all()
    )
    assert row["start_regret"] > 0
    curves = found["curves"].query("combination == 'k3_loss'")
    assert dict(zip(curves["step"], curves["seeds"], strict=True)) == {0: 3, 4: 3}
    points = found["fixed_points"].set_index("combination").loc["k3_loss"]
    assert points["sampled_seeds"] == 0
    assert math.isnan(points["sampled_regret"])
    assert math.isnan(points["sampled_way"])
    assert found["frontier"].query("combination == 'k3_loss'")["reward"].isna().any()


def test_presets_and_algorithms_give_way_to_keys() -> None:
    assert configured("ppo").epochs == 2
    assert configured("ppo").clip == 0.2
    assert configured("ppo", algorithm="reinforce").clip is None
    assert configured("ppo", algorithm="reinforce", epochs=3).epochs == 3
    grpo = configured("ppo", algorithm="grpo")
    assert (grpo.baseline, grpo.whitening) == ("batch_mean", "group")
    assert grpo.altered_by == "baseline=batch_mean, whitening=group"
    verl = configured("ppo", algorithm="verl_ppo")
    assert (verl.critic, verl.trace, verl.dual_clip, verl.epochs) == (True, 1.0, 3.0, 1)
    assert configured("ppo", algorithm="openrlhf_ppo", critic=False).critic is False
    assert configured("ppo").altered_by == ""
    thorough = configured("ppo", preset="thorough", seeds=3)
    assert thorough.seeds == 3
    assert thorough.updates > configured("ppo").updates
    assert len(configured("ppo").combinations) >= 10
    assert configured("ppo", combinations=("k1_reward", "trl_grpo"), frontier=()).combinations == (
        "k1_reward",
        "k3_ratio_loss",
    )


def test_the_plan_covers_all_seeds_once() -> None:
    assert [k for part in chunks(9) for k in part] == list(range(9))
    options = configured("ppo", **TINY | {"betas": (0.2,)})
    tasks = plan(options, range(6), ["optimum", "optimum", "", "token_k3", "greedy", "greedy"])
    assert "frontier" not in [task.kind for task in tasks]  # no weight but the main one
    free = {task.names for task in tasks if task.kind == "free"}
    assert free == {
        tuple(name for name in options.combinations if name != "k2_loss")
    }  # the one without a fixed point
    assert dataclasses.is_dataclass(Task)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"combinations": ["k1_rewrd"]},
            "combinations=['k1_rewrd']: unknown combination 'k1_rewrd'; did you mean 'k1_reward'?",
        ),
        ({"combinations": ["k3_loss", "none"], "frontier": ["none"]}, "frontier must have k3_loss"),
        ({"target_kl": 0.0}, "target_kl"),
        ({"kl_horizon": 0}, "kl_horizon"),
        ({"target_per": "completion"}, "target_per"),
        ({"combinations": ["k1_reward", "reinforce_k1"]}, "are the same combination"),
        ({"frontier": ["k3_loss"]}, "frontier must have k1_reward"),
        (
            {"frontier": ["k1_reward", "abs_reward"]},
            "frontier has abs_reward, which combinations has not",
        ),
        ({"seeds": 0}, "seeds=0: must be at least 1"),
        ({"group": 1}, "group=1: baselines and spreads within a group need at least 2 sequences"),
        ({"minibatches": 65}, "minibatches=65: a batch has 64 sequences"),
        ({"vocabulary": 20, "horizon": 6}, "sequences, at most 200,000"),
        ({"clip": 1.5}, "clip=1.5: must be less than 1"),
        ({"beta": -1}, "beta=-1: must be greater than 0"),
        ({"preset": "quick"}, "unknown preset 'quick'; available: default, thorough"),
        (
            {"algorithm": "gpro"},
            (
                "unknown algorithm 'gpro'; did you mean 'grpo'? Available: grpo, openrlhf_ppo, ppo,"
                " reinforce, "
            ),
        ),
        (
            {"algorithm": "grpo", "critic": True},
            "leave_one_out and critic=false, got baseline=batch_mean and critic=true",
        ),
        (
            {"algorithm": "trl_grpo", "critic": True},
            "whitening=group_trl divides what the mean of a group has centred",
        ),
        ({"whitening": "group", "baseline": "none"}, "got baseline=none and critic=false"),
        ({"bta": 0.1}, "unknown key 'bta'; did you mean 'beta'?"),
        (
            {
                "normalisation": "sequence",
                "combinations": ["k1_reward", "k3_loss_length_mean"],
                "frontier": [],
            },
            "does already",
        ),
    ],
)
def test_bad_settings_get_one_line(change, message) -> None:
    with pytest.raises(ConfigError) as error:
        configured("ppo", **change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_from_the_command_line(tmp_path, capsys) -> None:
    overrides = [f"++{key}={json.dumps(value)}" for key, value in TINY.items()]
    run = app.run("ppo", *overrides, f"out={tmp_path / 'run'}", "seeds=2", "updates=4", "workers=1")
    assert (run.path / "index.html").is_file()
    assert (run.path / "tables" / "training.csv").is_file()
    summary = get("ppo").summarize(run.tables)[0]
    assert len(summary.rows) == 6
    assert "k1_reward" in {row[0] for row in summary.rows}


def test_a_run_of_an_earlier_version_finds_the_study_by_its_name_of_then() -> None:
    assert get("training") is get("ppo")
