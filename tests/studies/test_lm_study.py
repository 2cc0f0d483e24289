"""The study of completions against what enumeration says of small policies, and its sums, tails,
tokens and interruptions.
"""

import math
from functools import cache

import numpy as np
import pandas as pd
import pytest

from klbench import estimators, pairs
from klbench.context import Context
from klbench.engine.settings import build
from klbench.pairs.sequence import SequencePair
from klbench.runs import RunFolder
from klbench.studies import get
from klbench.studies.lm import run as lm_run
from klbench.studies.lm.measure import found_in
from klbench.studies.lm.options import LmOptions
from klbench.types import ConfigError, Draws

SMALL = {"vocabulary": 3, "horizon": 3, "prompts": 2, "kl": 0.3}
NAMES = (
    "k1",
    "k2",
    "k3",
    "k_lambda:0.3",
    "abs",
    "k3_clamped:0.2",
    "bregman_kl_pq",
    "k1_weighted",
    "k3_weighted",
)
PROMISED = """pair estimator target batch samples truth truth_error truth_method mean mean_se
bias bias_se variance std rmse rel_bias rel_std exact_bias exact_std frac_negative n_nonfinite
khat status level per"""
TIMED = {"throughput", "cost"}


@cache
def pair(lag: float = 0.0) -> SequencePair:
    return SequencePair(**SMALL, lag=lag)


def tables(*measured, seed=0, workers=1, folder=None, **options) -> dict[str, pd.DataFrame]:
    context = Context(seed, workers=workers, folder=folder)
    return dict(
        get("lm").run(
            LmOptions(pairs=measured, **{"samples": 20_000, "shard": 2_048} | options), context
        )
    )


@cache
def measured(lag: float) -> dict[str, pd.DataFrame]:
    return tables(pair(lag), estimators=NAMES)


def atoms(p: SequencePair):
    """Every sequence of every prompt: its probability under the sampler.

    By token log-ratio, log-weight, KLs, mask.
    """
    paths = [np.asarray(each) for each in p.tree.paths]
    node, token, mask = paths
    log_probs = {side: each[:, node, token] for side, each in p.token_log_probs.items()}
    mu = log_probs.get("mu", log_probs["q"])
    probability = np.exp(np.where(mask, mu, 0.0).sum(-1)) / p.prompts
    q, ref = p.token_log_probs["q"], p.token_log_probs["p"]
    kl_qp = (np.exp(q) * (q - ref)).sum(-1)[:, node]
    kl_pq = (np.exp(ref) * (ref - q)).sum(-1)[:, node]
    mask = np.broadcast_to(mask, mu.shape)
    fields = (log_probs["p"] - log_probs["q"], log_probs["q"] - mu, kl_qp, kl_pq)
    return probability, *(np.where(mask, each, 0.0) for each in fields), mask


def row(table: pd.DataFrame, name: str, level: str, per: str = "sequence") -> pd.Series:
    (found,) = (
        each
        for _, each in table[(table["estimator"] == name) & (table["level"] == level)].iterrows()
        if each["per"] == per
    )
    return found


@pytest.mark.parametrize("lag", [0.0, 0.1])
def test_means_and_spreads_are_those_of_enumeration(lag) -> None:
    probability, log_ratio, log_weight, _, _, mask = atoms(pair(lag))
    table, length = measured(lag)["values"], float((probability * mask.sum(-1)).sum())
    assert probability.sum() == pytest.approx(1.0)
    compared = 0
    for name in NAMES:
        estimator = estimators.get(name)
        if estimator.needs_weight and not lag:
            assert set(table[table["estimator"] == name]["status"]) == {
                "skipped: needs log-probabilities of a third sampler"
            }
            continue
        tokens = np.where(mask, estimator.terms(Draws(log_ratio, log_weight)), 0.0).sum(-1)
        whole = estimator.terms(Draws(log_ratio.sum(-1), log_weight.sum(-1)))
        for level, terms in (("token", tokens), ("sequence", whole)):
            found, mean = row(table, name, level), float((probability * terms).sum())
            variance = float((probability * (terms - mean) ** 2).sum())
            assert abs(found["mean"] - mean) <= 5 * found["mean_se"]
            assert abs(found["variance"] - variance) <= 5 * found["variance_se"]
            assert found["std"] ** 2 == pytest.approx(found["variance"])
            negative = float((probability * (terms < 0)).sum())
            assert abs(found["frac_negative"] - negative) <= 5 * math.sqrt(
                negative * (1 - negative) / 20_000
            )
            if found["bias_method"] == "paired":
                target = (
                    found["truth"]
                    if found["truth_method"] == "enumeration"
                    else mean - found["bias"]
                )
                assert abs(found["bias"] - (mean - target)) <= 5 * found["bias_se"]
                compared += found["truth_method"] == "enumeration"
        found = row(table, name, "token", "token")
        assert (
            abs(found["mean"] - float((probability * tokens).sum()) / length)
            <= 5 * found["mean_se"]
        )
    assert compared >= 10


@pytest.mark.parametrize("lag", [0.0, 0.1])
def test_the_exact_sums_and_what_is_measured_against_them(lag) -> None:
    probability, _, log_weight, kl_qp, kl_pq, mask = atoms(pair(lag))
    table = measured(lag)["values"]
    plain = row(table, "rao_blackwell", "token")
    assert abs(plain["mean"] - float((probability * kl_qp.sum(-1)).sum())) <= 5 * plain["mean_se"]
    assert plain["truth"] == pytest.approx(0.3)
    assert plain["truth_method"] == "enumeration"
    prefix = np.exp(np.cumsum(log_weight, -1) - log_weight)
    weighted = float((probability * (prefix * kl_qp).sum(-1)).sum())
    assert weighted == pytest.approx(0.3)
    if lag:
        assert plain["mean"] != pytest.approx(0.3, abs=5 * plain["mean_se"])
        unbiased = row(table, "rao_blackwell_weighted", "token")
        assert abs(unbiased["bias"]) <= 5 * unbiased["bias_se"]
    assert plain["std"] < row(table, "k1", "token")["std"]
    # A sum of the tokens' KL(p‖q) along q's prefixes is what the token level of that direction aims
    # at, not the sequences' own.
    truth = row(table, "bregman_kl_pq", "token")
    expected = float((probability * (prefix * kl_pq).sum(-1)).sum())
    assert truth["truth_method"] == "monte-carlo"
    assert abs(truth["truth"] - expected) <= 5 * truth["truth_error"]
    assert abs(truth["truth"] - row(table, "bregman_kl_pq", "sequence")["truth"]) > 1e-3
    length = float((probability * mask.sum(-1)).sum())
    for name in ("k1", "k1_weighted") if lag else ("k1",):
        per_token = row(table, name, "token", "token")
        assert abs(per_token["truth"] - 0.3 / length) <= 5 * per_token["truth_error"]
    assert row(table, "k1", "sequence")["bias_method"] == "paired"


@pytest.mark.parametrize("lag", [0.0, 0.1])
def test_standard_errors_come_true_over_many_seeds(lag) -> None:
    seeds, found = 300, []
    probability, log_ratio, *_, mask = atoms(pair(lag))
    chosen = (
        estimators.get("abs"),
    )  # terms whose distribution is mild: intervals of k3 come true only slowly
    tokens = np.where(mask, chosen[0](log_ratio), 0.0).sum(-1)
    mean, length = float((probability * tokens).sum()), float((probability * mask.sum(-1)).sum())
    variance = float((probability * (tokens - mean) ** 2).sum())
    for seed in range(seeds):
        shard = found_in(pair(lag).completions(seed, 0, 500), chosen, 0.0, keep=False)
        table = lm_run.values([lm_run._solved(pair(lag), chosen, shard, None)])
        one, per_token, exact = (
            row(table, "abs", "token"),
            row(table, "abs", "token", "token"),
            row(table, "rao_blackwell_weighted" if lag else "rao_blackwell", "token"),
        )
        found.append(
            (
                (one["mean"] - mean) / one["mean_se"],
                (one["variance"] - variance) / one["variance_se"],
                (one["bias"] - (mean - 0.3)) / one["bias_se"],
                (per_token["mean"] - mean / length) / per_token["mean_se"],
                (per_token["bias"] - (mean - 0.3) / length) / per_token["bias_se"],
                (exact["mean"] - 0.3) / exact["mean_se"],
                (per_token["truth"] - 0.3 / length) / per_token["truth_error"],
            )
        )
    z = np.array(found)
    assert (np.abs(z.mean(0)) < 5 / math.sqrt(seeds) + 0.1).all()
    np.testing.assert_allclose(z.std(0), 1.0, atol=0.2)


def test_per_token_everything_is_per_completion_over_one_length() -> None:
    """An estimator that is right per completion is right per token, weighted or not, and so is
    one that is off by a tenth.
    """
    table = measured(0.1)["values"]
    length = float(table["tokens"].iloc[0] / table["samples"].iloc[0])
    compared = table[(table["per"] == "token") & table["mean"].notna()]
    assert {"k1", "k1_weighted", "k3_weighted", "rao_blackwell"} <= set(compared["estimator"])
    for found in compared.to_dict("records"):
        whole = row(table, found["estimator"], "token")
        assert found["mean"] == pytest.approx(whole["mean"] / length, rel=1e-12)
        if found["bias"] == found["bias"]:
            assert found["bias"] == pytest.approx(whole["bias"] / length, rel=1e-9, abs=1e-12)


class Warmer(SequencePair):
    """A pair whose samples are mu's, and whose truth is from the policy's own completions."""

    warm: bool = True

    @property
    def off_policy(self):
        return self.warm

    def on_policy(self):
        return self.model_copy(update={"warm": False}) if self.warm else None

    def completions(self, seed, shard, n):
        drawn = super().completions(seed, shard, n)
        return drawn if self.off_policy else SequencePair(**SMALL).completions(seed, shard, n)


def test_the_truth_from_the_policys_own_completions_is_over_the_same_length() -> None:
    found = tables(Warmer(**SMALL, lag=0.1), estimators=("k1", "k1_weighted"))["values"]
    probability, *_, mask = atoms(pair(0.1))
    length = float((probability * mask.sum(-1)).sum())
    for name in ("k1", "k1_weighted"):
        per_token, whole = row(found, name, "token", "token"), row(found, name, "token")
        assert abs(per_token["truth"] - 0.3 / length) <= 5 * per_token["truth_error"]
        assert per_token["bias"] == pytest.approx(
            whole["bias"] * found["samples"].iloc[0] / found["tokens"].iloc[0]
        )
        assert per_token["bias_se"] == pytest.approx(whole["bias_se"] / length, rel=0.1)


def test_the_columns_that_are_promised() -> None:
    for lag in (0.0, 0.1):
        found = measured(lag)
        assert set(PROMISED.split()) <= set(found["values"].columns)
        assert {"values", "tokens", "top_tokens", "pairs", "estimators", *TIMED} <= set(found)
        assert ("sampling" in found) == (lag > 0)
        assert "dtype" not in found
        assert set(found["values"]["level"]) == {"token", "sequence"}
        assert set(found["estimators"]["estimator"]) >= set(found["values"]["estimator"])


def test_positions_are_those_of_enumeration_and_add_up() -> None:
    probability, log_ratio, _, kl_qp, _, mask = atoms(pair())
    table = measured(0.0)["tokens"]
    assert table["position"].tolist() == [1, 2, 3]
    assert table["n"].iloc[0] == 20_000
    for t, found in enumerate(table.to_dict("records")):
        alive = float((probability * mask[..., t]).sum())
        assert (
            abs(found["n"] / 20_000 - alive) <= 5 * math.sqrt(alive * (1 - alive) / 20_000) + 1e-12
        )
        for name, values in (
            ("kl_qp", kl_qp),
            ("k1", -log_ratio),
            ("k3", estimators.get("k3")(log_ratio)),
        ):
            exact = float((probability * values[..., t]).sum()) / alive
            assert abs(found[name] - exact) <= 5 * found[f"{name}_se"] + 1e-12
        assert 0.0 < found["frac_negative"] < 1.0
    assert table["share"].sum() == pytest.approx(1.0)
    exact = row(measured(0.0)["values"], "rao_blackwell", "token")
    assert (table["n"] * table["kl_qp"]).sum() == pytest.approx(20_000 * exact["mean"])


def test_tokens_that_carry_the_divergence() -> None:
    table, sums = measured(0.0)["top_tokens"], measured(0.0)["values"]
    assert sorted(table["token"]) == [0, 1, 2, 3]
    assert table["rank"].tolist() == [1, 2, 3, 4]
    assert table["k1_sum"].abs().is_monotonic_decreasing
    assert table["k1_sum"].sum() == pytest.approx(20_000 * row(sums, "k1", "token")["mean"])
    assert table["kl_sum"].sum() == pytest.approx(
        20_000 * row(sums, "rao_blackwell", "token")["mean"]
    )
    assert table["count"].sum() == sums["tokens"].iloc[0]
    probability, log_ratio, *_ = atoms(pair())
    token, mask = (np.asarray(pair().tree.paths[i]) for i in (1, 2))
    for found in table.to_dict("records"):
        exact = float(
            (
                probability * np.where(mask & (token == found["token"]), -log_ratio, 0.0).sum(-1)
            ).sum()
        )
        assert abs(found["k1_sum"] - 20_000 * exact) <= 5 * found["k1_sum_se"]


def test_tokens_with_the_largest_ratios() -> None:
    table = measured(0.0)["largest_ratios"]
    assert table["largest"].is_monotonic_decreasing
    assert table["rank"].tolist() == [1, 2, 3, 4]
    _, log_ratio, *_ = atoms(pair())
    token, mask = (np.asarray(pair().tree.paths[i]) for i in (1, 2))
    for found in table.to_dict(
        "records"
    ):  # 20,000 completions of such a policy meet all that there are
        exact = np.abs(np.where(mask & (token == found["token"]), log_ratio, 0.0)).max()
        assert found["largest"] == pytest.approx(exact)


def test_samples_of_another_distribution() -> None:
    table = measured(0.1)["sampling"].set_index(["log_ratio", "estimator", "level"])
    probability, log_ratio, log_weight, *_ = atoms(pair(0.1))
    assert (table["kl_qp"] - 0.3).abs().max() < 1e-9
    from_mu = float((probability * -(log_ratio + log_weight).sum(-1)).sum())
    for level in ("token", "sequence"):
        found = table.loc[("log p - log mu", "k1", level)]
        assert abs(found["mean"] - from_mu) <= 5 * found["mean_se"]
        assert found["kl_mup"] == pytest.approx(found["mean"])
        found = table.loc[("log p - log mu", "k3", level)]
        # Both are unbiased for the sampler's own divergence, at either level.
        assert abs(found["mean"] - from_mu) <= 5 * found["mean_se"]


def assert_same(one: dict[str, pd.DataFrame], two: dict[str, pd.DataFrame]) -> None:
    assert set(one) == set(two)
    for name in set(one) - TIMED:
        pd.testing.assert_frame_equal(one[name], two[name], check_exact=True, obj=name)


@pytest.mark.usefixtures("workers_at_once")
def test_the_same_bits_whatever_the_workers_and_another_seed_is_another_run() -> None:
    alone = tables(pair(), pair(0.1), samples=1_000, shard=128)
    assert_same(alone, tables(pair(), pair(0.1), samples=1_000, shard=128, workers=2))
    assert alone["values"]["samples"].unique().tolist() == [1_000]
    other = tables(pair(), pair(0.1), samples=1_000, shard=128, seed=1)
    assert not alone["values"]["mean"].equals(other["values"]["mean"])
    # An estimator more or less changes no other's numbers.
    few = tables(pair(), pair(0.1), samples=1_000, shard=128, estimators=("k3",))["values"]
    same = alone["values"].merge(
        few, on=["pair", "estimator", "level", "per"], suffixes=("", "_few")
    )
    kept = same[~same["status"].str.startswith("skipped")]
    np.testing.assert_array_equal(kept["mean"], kept["mean_few"])
    np.testing.assert_allclose(kept["bias_se"], kept["bias_se_few"], rtol=1e-9, atol=1e-12)


def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, monkeypatch) -> None:
    folder = RunFolder(tmp_path)
    calls = []

    def stopped(*arguments):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(arguments)
        return real(*arguments)

    real = lm_run.measure_shard
    monkeypatch.setattr(lm_run, "measure_shard", stopped)
    first = tables(pair(), pair(0.1), samples=1_000, shard=256, folder=folder)
    assert set(first["values"]["pair"]) == {pair().title}  # the first is done, the second is not
    monkeypatch.setattr(lm_run, "measure_shard", real)
    measured_again = []
    monkeypatch.setattr(lm_run, "measure_shard", lambda *a: measured_again.append(a) or real(*a))
    found = tables(pair(), pair(0.1), samples=1_000, shard=256, folder=folder)
    assert len(measured_again) == 3
    assert_same(found, tables(pair(), pair(0.1), samples=1_000, shard=256))


def test_what_is_no_mean_of_terms_is_a_row_with_the_reason() -> None:
    found = tables(pair(), estimators=("k1", "k_fitted"), samples=300)["values"]
    assert set(found[found["estimator"] == "k_fitted"]["status"]) == {
        "skipped: is no mean of terms"
    }


def test_cost_and_speed() -> None:
    found = measured(0.0)
    cost = found["cost"].set_index(["estimator", "level"])
    values = row(found["values"], "k3", "token")
    assert cost.loc[("k3", "token"), "completions_needed"] == pytest.approx(
        (100 * values["rel_std"]) ** 2
    )
    assert (cost["seconds_needed"] > 0).all()
    assert found["throughput"]["peak_mib"].min() > 10
    assert set(found["throughput"]["stage"]) == {
        "completions",
        *(n for n in NAMES if not n.endswith("weighted")),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"pairs": [pairs.get("gaussian")(q={"mean": 0.0}, p={"mean": 1.0})]},
            "gaussian pairs have no tokens; pairs with ",
        ),
        ({"samples": 1}, "samples=1: must be at least 2"),
        ({"shard": 0}, "shard=0: must be at least 1"),
        ({"dtypes": ["float8"]}, "dtypes.0='float8'"),
        ({"truncations": [0]}, "truncations.0=0: must be at least 1"),
    ],
)
def test_bad_settings_get_one_line(options, message) -> None:
    with pytest.raises(ConfigError) as error:
        build(LmOptions, {"pairs": [pair()]} | options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
