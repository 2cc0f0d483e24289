"""The study over length.

Known marks, what levels off, where weights cross, bounds, and the language models.
"""

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from klbench import gradients, streams
from klbench.context import Context
from klbench.gradients import recursion
from klbench.policies import markov
from klbench.schema import check
from klbench.studies.horizon import crossings, language, levels, series
from klbench.studies.horizon.columns import HORIZON, TABLES
from klbench.studies.horizon.options import HorizonOptions
from klbench.studies.horizon.run import run, summarize

FEW = ("k1_reward_to_go", "k1_reward_token_ratio", "k3_loss", "full_loss")


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    patch = pytest.MonkeyPatch()
    patch.setattr("klbench.studies.horizon.run.ENUMERATED", range(2, 5))
    patch.setattr(levels, "CHAINS", 10)
    options = HorizonOptions(
        series=("lognormal", "gru", "mixing"),
        kl_tokens=(0.01,),
        lag_tokens=(0.0, 0.005),
        longest=64,
        combinations=FEW,
        chains=8,
    )
    try:
        return dict(run(options, Context(seed=0)))
    finally:
        patch.undo()


def test_every_table_is_as_declared(tables: dict[str, pd.DataFrame]) -> None:
    check(TABLES, tables)
    names = (
        "series combination tokens kl_token lag_token kl rel_bias rel_std ess log_ess khat method"
    )
    assert [column.name for column in HORIZON.columns] == names.split()
    found = tables["horizon"]
    methods = dict(zip(found["series"], found["method"], strict=True))
    assert methods == {"lognormal": "closed-form", "gru": "enumeration", "mixing": "recursion"}
    assert sorted(found.loc[found["series"] == "gru", "tokens"].unique()) == [2, 3, 4]
    assert found["kl"].to_numpy() == pytest.approx((found["tokens"] * found["kl_token"]).to_numpy())
    assert found.loc[found["method"] != "closed-form", "khat"].isna().all()
    assert summarize(tables)[0].rows


def test_lognormal_samples_are_worth_the_exponential_of_the_lag(
    tables: dict[str, pd.DataFrame],
) -> None:
    options = HorizonOptions(
        series=("lognormal",),
        kl_tokens=(0.1,),
        lag_tokens=(0.01,),
        combinations=("k1_reward_sequence_ratio",),
    )
    found = run(options, Context(seed=0))["horizon"]
    assert found["tokens"].max() == 4096
    assert found["log_ess"].to_numpy() == pytest.approx((-2 * 0.01 * found["tokens"]).to_numpy())
    assert found["khat"].is_monotonic_increasing


def test_the_bias_of_random_chains_is_the_known_one() -> None:
    rows = {row["tokens"]: row for row in levels.levels_rows([2, 4, 8, 128, 1024], seed=0)}
    for tokens, known in levels.KNOWN.items():
        assert rows[tokens]["rel_bias_low"] <= known <= rows[tokens]["rel_bias_high"]
    assert rows[1024]["of_limit"] == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("seed", range(3))
def test_the_endless_bias_is_what_lengths_lead_to(seed: int) -> None:
    policies = markov.random_chain(streams.generator(seed, "test"))
    far = levels.token_bias(policies, [2**14, 2**15])
    # What is left falls as 1 / length.
    limit = 2 * far[2**15] - far[2**14]
    assert levels.endless(policies) == pytest.approx(limit, rel=1e-7)


def test_an_early_token_that_decides_makes_the_bias_grow() -> None:
    rows = {
        family: levels.family_row(family, 0.01, [8, 64, 256, 2048, 4096], 0, 16)
        for family in markov.FAMILIES
    }
    assert rows["mixing"]["verdict"] == rows["mode"]["verdict"] == "levels off"
    assert rows["absorbing"]["verdict"] == "grows"
    assert rows["absorbing"]["last"] > 1.3 * rows["absorbing"]["first"]
    assert rows["mixing"]["last"] == pytest.approx(rows["mixing"]["limit"], rel=0.01)
    assert math.isinf(rows["mode"]["relaxation"])


@pytest.mark.parametrize("family", markov.FAMILIES)
def test_all_that_is_left_out_is_the_bias_of_token_losses(family: markov.Family) -> None:
    policies = series.chain(family, 0.01, 0.0, 32, 1)
    found = levels.left_out(policies, 32)
    assert found[32] == pytest.approx(levels.token_bias(policies, [32])[32], rel=1e-9)
    assert found[1] < found[32]


@pytest.mark.parametrize(("one", "at"), [([1.0, 1.0, 1.0], 1.0), ([9.0, 9.0, 9.0], math.inf)])
def test_curves_that_do_not_cross(one: list[float], at: float) -> None:
    assert crossings.crossing([2, 4, 8], one, [2.0, 2.0, 2.0]) == at


def test_weights_cross_where_both_err_alike() -> None:
    policies = series.chain("mixing", 0.01, 0.005, 256, 0)
    token, sequence = crossings.RIVALS[-1]
    lengths = [2**k for k in range(1, 9)]
    at = crossings.crossing(
        lengths, *(crossings.errors(name, policies, lengths, 256) for name in (token, sequence))
    )
    assert 2 < at < 256
    near = [math.floor(0.9 * at), math.ceil(1.1 * at)]
    short, long = (
        np.subtract(
            *(crossings.errors(name, policies, [tokens], 256) for name in (token, sequence))
        )
        for tokens in near
    )
    assert short > 0 > long


@pytest.mark.parametrize("family", markov.FAMILIES)
def test_no_bound_is_below_the_error(family: markov.Family) -> None:
    rows = crossings.bound_rows(family, 0.01, 0.02, [2, 3, 8, 64], 0)
    assert all(row[f"slack_{name}"] >= 1.0 for row in rows for name in ("2", "15", "1"))


def test_the_error_of_the_surrogate_is_what_enumeration_says() -> None:
    policies = series.chain("mixing", 0.01, 0.05, 3, 2)
    q, mu = policies.kernel(policies.log_q), policies.kernel(policies.log_mu)
    error = np.zeros(6)
    for path in np.ndindex(6, 6, 6, 6):
        pairs = list(pairwise(path))
        chance = policies.start[path[0]] * math.prod(mu[pair] for pair in pairs)
        ratios = [q[pair] / mu[pair] for pair in pairs]
        surrogate = sum(ratio - 1.0 for ratio in ratios)
        error[path[-1]] += chance * (math.prod(ratios) - 1.0 - surrogate)
    worst = max(error[error > 0].sum(), -error[error < 0].sum())
    assert crossings.surrogate_error(policies, 3) == pytest.approx(worst, rel=1e-9)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"samples": 200}, "multiple of 128"),
        ({"series": ("mixing", "mixing")}, "twice"),
        ({"longest": 4}, "greater than or equal to 8"),
        ({"kl_tokens": (0.0,)}, "greater than"),
    ],
)
def test_bad_settings_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        HorizonOptions.model_validate(given)


def test_a_language_model_is_read_as_it_was_sampled() -> None:
    models = language.Models()
    texts = models.sample(np.random.default_rng(0), 32, 100, 0.0)
    again = models.sample(np.random.default_rng(0), 32, 100, 0.0)
    assert bool((texts == again).all())
    assert texts.shape == (32, 108)
    read = models.read(texts)
    assert read.log_q.shape[:2] == (32, 100)
    assert not np.isin(texts[:, 8:].numpy(), models.policy.end).any()
    # -log q of what was sampled is the entropy, on average.
    own = -read.log_q.gather(-1, read.token[..., None])[..., 0]
    entropy = -(read.log_q.exp() * read.log_q.clamp(min=-1e4)).sum(-1)
    gap = (own - entropy).detach().double().sum(-1).numpy()
    assert abs(gap.mean()) <= 5 * gap.std() / math.sqrt(len(gap))


def test_language_models_are_sampled_with_their_errors(monkeypatch) -> None:
    monkeypatch.setenv("KLBENCH_EMBEDDED", "tiny")
    chosen = [
        gradients.get(name) for name in ("full_loss", "k3_ratio_loss", "k1_reward_sequence_ratio")
    ]
    found = language.rows(chosen, [0.0, 0.005], [8, 16], 128, 0)
    horizon, sampled = found.horizon, found.sampled
    assert [row["gap"] for row in found.gaps] == [1, 2, 4, 8, 16]
    assert all(row["left_out_low"] <= row["left_out"] <= row["left_out_high"] for row in found.gaps)
    assert len(horizon) == len(sampled) == 12
    assert {row["method"] for row in horizon} == {"sampling"}
    assert all(row["rel_bias_se"] > 0 and row["rel_std_se"] > 0 for row in sampled)
    lagged = [row for row in horizon if row["lag_token"] > 0]
    assert 0.0 < lagged[0]["lag_token"] < 0.0065  # as measured: these two are far apart
    whole = next(row for row in lagged if row["combination"] == "k1_reward_sequence_ratio")
    assert whole["log_ess"] < 0
    assert math.isfinite(whole["khat"])


def test_the_gradient_in_the_readout_is_autograds() -> None:
    models = language.Models()
    drawn = language.Sampled.of(
        models.read(models.sample(np.random.default_rng(1), 128, 8, 0.0)), 0.0
    )
    token, full = language._coefficients(gradients.get("k3_ratio_loss"), drawn.rollouts)
    mean = torch.stack(list(drawn.gradients(token[None], full[None]))).mean((0, 1))
    weight = models.policy.model.lm_head.weight.detach().clone().requires_grad_()
    logits = drawn.read.hidden.detach() @ weight.T
    logits[..., list(models.policy.end)] = language.NEVER
    log_q = logits.log_softmax(-1).gather(-1, drawn.read.token[..., None])[..., 0].double()
    (expected,) = torch.autograd.grad((token * log_q).sum(-1).mean(), weight)
    assert mean.numpy() == pytest.approx(
        expected.flatten().numpy(), abs=1e-5 * float(expected.abs().max())
    )


def test_the_recursion_has_what_the_corrections_have() -> None:
    policies = series.chain("mode", 0.01, 0.005, 64, 0)
    for name in HorizonOptions().combinations:
        found = recursion.moments(gradients.get(name), policies, [64])
        assert (found is None) == ("sequence_mask" in name), name
