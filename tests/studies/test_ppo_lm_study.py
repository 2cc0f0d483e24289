"""PPO on language models, from settings to tables, checkpoints, and on from where it was
interrupted.
"""

import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from experiments import configured
from ppo_lm_runs import NAMES, TINY, same, study
from scipy.stats import t

from klbench.context import Context
from klbench.engine import app
from klbench.lm import loading
from klbench.rlhf.language.ppo_world import Language
from klbench.runs import RunFolder
from klbench.studies import get
from klbench.studies.language.tables import compared_table, complete
from klbench.studies.ppo_lm import tasks
from klbench.trackers import Tracker
from klbench.types import ConfigError, RunError

PROMISED = {
    "algorithm",
    "combination",
    "estimator",
    "placement",
    "level",
    "correction",
    "beta",
    "seed",
    "step",
    "reward",
    "reward_se",
    "kl",
    "kl_se",
    "kl_estimate",
    "kl_estimate_se",
    "k1",
    "k2",
    "k3",
    "objective",
    "regret",
    "kl_to_optimum",
    "tokens",
    "ended",
    "clip_fraction",
    "status",
}
pytestmark = pytest.mark.usefixtures("tiny_models")


@pytest.fixture(scope="module")
def whole(tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, study(folder)


def test_the_tables_and_their_columns(whole) -> None:
    _, tables = whole
    assert set(tables) == {"training", "compared", "texts", "combinations"}
    training = tables["training"]
    assert set(training.columns) >= PROMISED
    assert [tuple(each) for each in training[["combination", "step"]].to_numpy()] == [
        (n, s) for n in NAMES for s in (0, 2, 4)
    ]
    assert bool((training["status"] == "ok").all())
    start = training[training["step"] == 0]
    assert float(start["kl"].abs().max()) == 0.0
    assert start["reward"].nunique() == 1  # all draw with the same numbers
    assert bool((training[training["step"] > 0]["kl"] > 0).all())
    assert np.allclose(training["objective"], training["reward"] - 0.05 * training["kl"])
    assert bool(training[["regret", "kl_to_optimum"]].isna().all(axis=None))
    assert bool((training.loc[training["step"] > 0, "beta_used"] != 0.05).all())
    full = training[training["combination"] == "k1_reward"]
    assert np.allclose(full["kl_estimate"], full["k1"])
    full = training[training["combination"] == "k3_loss"]
    assert np.allclose(full["kl_estimate"], full["k3"])


def test_the_comparison_is_paired_and_says_how_sure_it_is(whole) -> None:
    compared = whole[1]["compared"].set_index("combination")
    assert list(compared.index) == ["untrained", *NAMES]
    assert compared.loc["untrained", "kl"] == 0.0
    assert compared.loc["k1_reward", "kl_difference"] == 0.0
    for name in NAMES:
        row = compared.loc[name]
        assert row["reward_gain"] == pytest.approx(
            row["reward"] - compared.loc["untrained", "reward"]
        )
        assert row["kl_difference"] == pytest.approx(row["kl"] - compared.loc["k1_reward", "kl"])
        assert row["kl_share"] == pytest.approx(row["kl"] / compared.loc["none", "kl"])
        assert row["reward_se"] > 0
        assert math.isnan(row["kl_spread"])
    assert set(compared["outcome"]) <= {"", "holds", "does not hold", "not told"}
    assert len(whole[1]["texts"]) == 4 * 3


def test_workers_change_no_bit(whole, tmp_path) -> None:
    same(whole[1], study(tmp_path, workers=2))


@pytest.mark.parametrize("after", [1, 3, 7])
def test_an_interrupted_run_goes_on_to_the_same_bits(whole, tmp_path, monkeypatch, after) -> None:
    """Ctrl-C comes in the middle of a run, after so many of its updates."""
    steps = []

    step = Language.step

    def counted(self, loss, update):
        steps.append(update)
        if len(steps) > 4 * after:  # 2 epochs in 2 parts
            raise KeyboardInterrupt
        step(self, loss, update)

    monkeypatch.setattr(Language, "step", counted)
    context = Context(0, workers=1, folder=RunFolder(tmp_path))
    found = dict(get("ppo_lm").run(configured("ppo_lm", **TINY), context))
    assert context.interrupted
    assert ("training" in found) == (after > 4)
    monkeypatch.undo()
    same(whole[1], study(tmp_path))


def test_ctrl_c_before_anything_is_finished_keeps_the_run_to_be_continued(
    tmp_path, monkeypatch
) -> None:
    step = Language.step

    def interrupted(self, loss, update):
        if update == 1:
            raise KeyboardInterrupt
        step(self, loss, update)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Language, "step", interrupted)
    small = (
        "updates=2",
        "every=1",
        "group=2",
        "prompts_each=2",
        "prompt_count=2",
        "samples=4",
        "max_new_tokens=3",
        "seeds=1",
    )
    run = app.run(
        "ppo_lm", *small, "combinations=[k1_reward]", "workers=1", "checkpoints=false", "out=run"
    )
    assert (run.status, run.tables) == ("interrupted", {})
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    run = app.launch(["resume=run"])
    assert run.status == "done"
    assert list(run.tables["training"]["step"]) == [0, 1, 2]
    assert not (tmp_path / "run" / "parts").exists()


def test_checkpoints_are_models_that_pair_lm_measures(whole, tmp_path, monkeypatch) -> None:
    folder, tables = whole
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == [f"{name}-seed-0" for name in sorted((*NAMES, "untrained"))]
    lm = loading.load(str(folder / "checkpoints" / "none-seed-0"))
    assert lm.vocabulary == 288
    monkeypatch.chdir(tmp_path)
    run = app.run(
        "lm",
        "pair=lm",
        f"pair.policy={folder}/checkpoints/none-seed-0",
        "samples=256",
        "pair.prompt_count=6",
        "pair.max_new_tokens=6",
        "estimators=[k1]",
        "rescored=0",
        "out=measured",
    )
    row = (
        run.tables["values"]
        .query("estimator == 'k1' and level == 'token' and per == 'sequence'")
        .iloc[0]
    )
    compared = tables["compared"].set_index("combination").loc["none"]
    assert abs(row["truth"] - compared["kl"]) < 5 * math.hypot(
        row["truth_error"], compared["kl_se"]
    )


def test_a_run_that_fails_is_recorded_and_the_others_go_on(whole, tmp_path, monkeypatch) -> None:
    step = Language.step

    def poisoned(self, loss, update):
        fails = poisoned.name == "k3_loss" and update == 1
        step(self, loss * math.inf if fails else loss, update)

    perform = tasks.perform

    def named(options, place, name, seed):
        poisoned.name = name
        return perform(options, place, name, seed)

    monkeypatch.setattr(Language, "step", poisoned)
    monkeypatch.setattr("klbench.studies.ppo_lm.run.perform", named)
    found = study(tmp_path)
    training = found["training"]
    last = training.groupby("combination").last()
    assert last.loc["k3_loss", "status"].startswith("diverged at update 1: the loss is ")
    assert last.loc["k3_loss", "step"] == 2
    assert set(training.query("combination != 'k3_loss'")["status"]) == {"ok"}
    healthy = whole[1]["training"].query("combination != 'k3_loss'").reset_index(drop=True)
    found = training.query("combination != 'k3_loss'").reset_index(drop=True)
    pd.testing.assert_frame_equal(found, healthy, check_exact=True)


def run(name, seed, kl, status="ok", error=0.0):
    values = {"prompt": [0, 1], "reward": [kl, kl], "kl": [kl - 1, kl + 1]}
    statistics = {
        "reward": kl,
        "reward_se": 0.1,
        "kl": kl,
        "kl_se": 0.1,
        "estimate_error": error,
        "estimate_error_se": 0.1,
    }
    return {
        "combination": name,
        "seed": seed,
        "statistics": statistics,
        "values": values,
        "status": status,
    }


def test_runs_that_diverged_are_counted_and_in_no_mean() -> None:
    runs = [
        run("untrained", 0, 0.0),
        run("untrained", 1, 0.0),
        run("k1_reward", 0, 1.0),
        run("k1_reward", 1, 3.0),
        run("k3_loss", 0, 2.0),
        run("k3_loss", 1, 50.0, "diverged"),
        run("k2_loss", 0, 9.0, "diverged"),
        run("none", 0, 10.0),
    ]
    found = compared_table(runs, "k1_reward").set_index("combination")
    assert found[["seeds", "diverged"]].to_numpy().tolist() == [
        [2, 0],
        [2, 0],
        [1, 1],
        [0, 1],
        [1, 0],
    ]
    assert found["kl"].tolist() == [0.0, 2.0, 2.0, 9.0, 10.0]
    assert found.loc["k3_loss", "kl_difference"] == 1.0  # from the first seed of k1_reward
    assert found["outcome"].tolist() == ["", "holds", "holds", "diverged on all seeds", ""]
    assert found.loc["k1_reward", "kl_share"] == pytest.approx(
        0.1
    )  # of the one seed that both have


@pytest.mark.parametrize(
    ("kls", "outcome"),
    [
        ((1.9, 12.0), "holds"),
        ((3.9, 20.0), "not told"),
        ((6.1, 41.0), "not told"),
        ((7.0, 42.6), "does not hold"),
    ],
)
def test_a_penalty_holds_where_the_whole_interval_over_seeds_is_below_a_half(kls, outcome) -> None:
    """Seeds whose KL without a penalty is 10 and 60.

    The share is a ratio of means, its interval Student's of one degree.
    """
    free = np.array([10.0, 60.0])
    ends = {"untrained": (0.0, 0.0), "k1_reward": kls, "none": free}
    runs = [run(name, seed, kl) for name, each in ends.items() for seed, kl in enumerate(each)]
    row = compared_table(runs, "k1_reward").set_index("combination").loc["k1_reward"]
    share = sum(kls) / 70.0
    half = t.ppf(0.975, 1) * np.std(np.array(kls) - share * free, ddof=1) / math.sqrt(2) / 35.0
    assert (row["kl_share"], row["kl_share_low"], row["kl_share_high"]) == pytest.approx(
        (share, share - half, share + half)
    )
    assert row["outcome"] == outcome


@pytest.mark.parametrize(
    ("kl", "outcome"),
    [(3.0, "holds"), (4.9, "not told"), (5.1, "not told"), (7.0, "does not hold")],
)
def test_of_one_seed_the_interval_is_over_its_completions(kl, outcome) -> None:
    """Two prompts, a completion each, ``kl - 1`` and ``kl + 1`` beside 9 and 11.

    The sum of squares by hand.
    """
    table = compared_table(
        [run("untrained", 0, 0.0), run("k1_reward", 0, kl), run("none", 0, 10.0)], "k1_reward"
    )
    row = table.set_index("combination").loc["k1_reward"]
    half = 1.959964 * abs(1.0 - kl / 10.0) / 10.0
    assert (row["kl_share_low"], row["kl_share_high"]) == pytest.approx(
        (kl / 10.0 - half, kl / 10.0 + half)
    )
    assert row["outcome"] == outcome


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(0.2, "too high"), (0.19, "within noise"), (-0.19, "within noise"), (-0.2, "too low")],
)
def test_an_estimate_is_off_where_noise_does_not_explain_it(error, outcome) -> None:
    """The standard error is 0.1, and 1.96 of them the border.

    A run of an earlier version is told the same.
    """
    table = compared_table(
        [run("untrained", 0, 0.0), run("k1_reward", 0, 3.0, error=error)], "k1_reward"
    )
    assert table["estimate_outcome"].tolist() == ["within noise", outcome]
    pd.testing.assert_frame_equal(
        complete({"compared": table.drop(columns="estimate_outcome")})["compared"],
        table,
        check_like=True,
    )


def test_a_step_that_does_not_fit_into_memory_says_what_to_change(tmp_path, monkeypatch) -> None:
    def full(self, loss, update):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Language, "step", full)
    with pytest.raises(
        RunError,
        match=(
            "out of memory while training on 8 completions at a time: lower prompts_each, group or"
        ),
    ):
        study(tmp_path)


def test_fine_tuning_comes_first_and_the_reference_is_what_comes_of_it(whole, tmp_path) -> None:
    examples = tmp_path / "examples.txt"
    examples.write_text("aaaaaaaa aaaaaaaa aaaaaaaa aaaaaaaa\n" * 32)
    changes = {
        "combinations": ("k1_reward",),
        "updates": 1,
        "every": 1,
        "sft_steps": 80,
        "sft_rate": 0.01,
        "seeds": 1,
    }
    found = study(tmp_path / "run", sft=str(examples), **changes)
    row = found["compared"].set_index("combination").loc["untrained"]
    before = whole[1]["compared"].set_index("combination").loc["untrained"]
    assert row["kl"] == 0.0
    assert row["reward"] > before["reward"] + 5 * math.hypot(
        row["reward_se"], before["reward_se"]
    )  # a is a vowel


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"prompt": "x"}\n',
            (
                "examples.jsonl, line 1: no key 'completion'; expected prompt, completion, this one"
                " has prompt"
            ),
        ),
        (
            "[1]\n",
            (
                "examples.jsonl, line 1: expected an object with the keys prompt, completion, this"
                " is list"
            ),
        ),
        ("\n{\n", "examples.jsonl, line 2: not JSON"),
        (
            '{"prompt": "x", "completion": 3}\n',
            "line 1: 'completion' must be text that is not empty, got 3",
        ),
        ("", "examples.jsonl: there is nothing in it"),
    ],
)
def test_examples_that_cannot_be_read_are_named_and_nothing_is_left(
    tmp_path, monkeypatch, content, message
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=re.escape(message)):
        app.run("ppo_lm", "sft=examples.jsonl", "workers=1", "out=run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sft=none.jsonl", "none.jsonl: no such file"),
        ("reward=vowel", "did you mean 'vowels'?"),
        ("reward=length:0", "expected a number of tokens, 1 or more, after the colon"),
        ("pretraining_weight=1", "a file of examples and a weight above 0 go together"),
        ("preferences=tests/pairs.jsonl", "tests/pairs.jsonl: no such file"),
        ("tracker=wandb", "pip install 'klbench[wandb]'"),
        ("policy=nothere/", "no such folder"),
    ],
)
def test_wrong_settings_are_one_line(monkeypatch, override, message) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        app.check(["+exp=ppo_lm", f"++{override}"])
    assert "\n" not in str(error.value)


def test_a_tracker_is_told_every_report_of_every_combination(tmp_path, monkeypatch) -> None:
    told = []

    def start(name, folder, run, config):
        assert (name, folder) == ("wandb", tmp_path)
        return Tracker(
            lambda step, numbers: told.append((run, step, numbers["kl"])),
            lambda: told.append((run, "closed")),
        )

    monkeypatch.setattr("klbench.trackers.PACKAGES", {})  # as if all were installed
    monkeypatch.setattr("klbench.trackers.start", start)
    found = study(tmp_path, combinations=("k1_reward",), tracker="wandb", updates=2)["training"]
    expected = [
        ("k1_reward-seed-0", step, kl) for step, kl in zip(found["step"], found["kl"], strict=True)
    ]
    assert told == [*expected, ("k1_reward-seed-0", "closed")]


def test_where_training_without_a_penalty_went_nowhere_there_is_no_share_of_its_kl() -> None:
    table = compared_table(
        [run(name, 0, 0.0) for name in ("untrained", "k1_reward", "none")], "k1_reward"
    )
    row = table.set_index("combination").loc["k1_reward"]
    assert row[["kl_share", "kl_share_low", "kl_share_high"]].isna().all()
    assert row["outcome"] == ""
