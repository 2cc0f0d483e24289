"""What staleness says to use below which batch, its weights and its means over seeds, counted out."""

import math

import numpy as np
import pandas as pd
import pytest

from klbench import gradients, pairs
from klbench.context import Context
from klbench.gradients.surrogate import weight_of
from klbench.studies import get
from klbench.studies.staleness.run import weights

SMALL = {"kind": "sequence", "vocabulary": 2, "horizon": 3, "prompts": 2, "width": 4, "kl": 0.3}
NAMES = (
    "k1_reward",
    "k3_ratio_loss",
    "k1_reward_masked_ratio",
    "k1/reward/token/sequence_mask:1.2",
    "k2_sampler_loss",
    "full_loss",
    "full_with_score",
    "full_with_score_decision_ratio",
    "k3_prefix_ratio_loss",
    "k1_reward_sequence_ratio",
)


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    study = get("staleness")
    several = tuple({**SMALL, "series": "two", "seed": seed} for seed in (0, 1))
    options = study.options(pairs=several, combinations=NAMES, lags=(0.0, 0.15))
    return study.run(options, Context(0))


@pytest.mark.parametrize("among", ["all", "sampled"])
def test_the_choice_is_the_least_error_in_every_batch(tables, among) -> None:
    rows = tables["staleness"]
    rows = rows[~rows["estimator"].str.contains(" to the ")]
    if among == "sampled":
        rows = rows[~rows["placement"].str.startswith("full")]
    chosen = tables["choices"][tables["choices"]["among"] == among]
    for (pair, lag), some in rows.groupby(["pair", "staleness"]):
        here = chosen[(chosen["pair"] == pair) & (chosen["staleness"] == lag)]
        assert here["batch_from"].iloc[0] == 1
        assert math.isinf(here["batch_to"].iloc[-1])
        assert (here["batch_from"].to_numpy()[1:] == here["batch_to"].to_numpy()[:-1] + 1).all()
        bias = np.where(some["matches"].str.contains("KL(q‖p)", regex=False), 0, some["rel_bias"])
        bias = np.where(some["matches"] == "KL(q‖p) - KL(p‖q)", some["rel_bias"], bias)
        ends = {1, 10**6, *here["batch_from"], *here["batch_to"].replace(math.inf, 10**5)}
        for batch in sorted({int(each) + k for each in ends for k in (-1, 0, 1)} - {0}):
            error = np.sqrt(bias**2 + some["rel_std"].to_numpy() ** 2 / batch)
            (row,) = here[(here["batch_from"] <= batch) & (batch <= here["batch_to"])].to_dict(
                "records"
            )
            found = math.sqrt(row["rel_bias"] ** 2 + row["rel_std"] ** 2 / batch)
            assert found == pytest.approx(error.min(), rel=1e-9), (pair, lag, batch)
            if batch == row["batch_from"]:
                assert row["rel_error_from"] == pytest.approx(found)


def test_above_a_batch_only_what_is_unbiased_is_left(tables) -> None:
    last = tables["choices"].groupby(["pair", "staleness", "among"]).last()
    assert (last["rel_bias"] == 0).all()
    lagging = last[last.index.get_level_values("staleness") > 0]
    assert set(lagging["correction"]) <= {"decision_ratio", "prefix_ratio"}
    assert lagging["plain_up_to"].map(math.isfinite).all()


def test_weights_are_counted_by_tokens_and_by_sequences() -> None:
    pair = pairs.get("sequence")(**{key: SMALL[key] for key in SMALL if key != "kind"}, lag=0.15)
    specs = (
        "k1/reward_to_go/token/masked_ratio:0.8-1.1",
        "k1/reward/token/sequence_mask:1.2",
        "k1_reward",
    )
    chosen = [gradients.get(spec) for spec in specs]
    for combination, found in zip(chosen, weights(pair, chosen), strict=True):
        number, first, second, kept = 0.0, 0.0, 0.0, 0.0
        for atoms in pair.gradient_task().atoms():
            weight = weight_of(combination, atoms.rollouts)
            for i, p in enumerate(atoms.probability.tolist()):
                of_token = weight.shape[1] > 1
                tokens = atoms.rollouts.mask[i].nonzero()[:, 0].tolist() if of_token else [0]
                for w in (float(weight[i, t]) for t in tokens):
                    number, first, second = number + p, first + p * w, second + p * w * w
                    kept += p * (w > 0)
        assert found["weight_mean"] == pytest.approx(first / number)
        assert found["weight_ess"] == pytest.approx(first**2 / number / second)
        assert found["weight_kept"] == pytest.approx(kept / number)
    plain = weights(pair, chosen)[-1]
    assert list(plain.values()) == pytest.approx([1.0, 1.0, 1.0])


def test_a_mask_keeps_less_of_the_weight_the_further_the_sampler_lags(tables) -> None:
    rows = tables["staleness"]
    masked = rows[rows["correction"] == "sequence_mask:1.2"].sort_values("staleness")
    for _, some in masked.groupby("pair"):
        fresh, stale = some["weight_mean"]
        assert fresh == pytest.approx(1.0)
        assert 0.0 < stale < 1.0
    right = rows[rows["correction"] == "sequence_ratio"]
    assert right["weight_mean"].to_numpy() == pytest.approx(1.0)
    assert right["weight_ess"].to_numpy() == pytest.approx(right["ess"].to_numpy(), rel=0.2)


def test_over_seeds_are_geometric_means_of_the_pairs(tables) -> None:
    rows, found = tables["staleness"], tables["over_seeds"].set_index(["staleness", "combination"])
    assert len(found) == 2 * len(NAMES)
    for (lag, name), row in found.iterrows():
        some = rows[(rows["staleness"] == lag) & (rows["combination"] == name)]
        noise = some["rel_std"].to_numpy()
        if (noise == 0).any():  # the penalty to the sampler, on-policy
            continue
        assert row["rel_std"] == pytest.approx(math.sqrt(noise[0] * noise[1]))
        assert row["rel_std_low"] < row["rel_std"] < row["rel_std_high"]
        assert row["pairs"] == 2
        assert (row["right_pairs"] == 2) == (some["matches"] == "KL(q‖p)").all()
    stale = found.loc[0.15]
    least = stale[stale["right_pairs"] == 2]["over_least"].idxmin()
    assert least == "full_with_score_decision_ratio"
    assert stale.loc[least, "over_least"] == pytest.approx(1.0)
    assert stale.loc["k1_reward_sequence_ratio", "over_least"] > 1.5
