"""A lost token: where it starts, what its gradients are, and what brings it back."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from experiments import configured

from klbench.rlhf import testbed
from klbench.studies.ppo.recovery import held, lost_tokens, recovery_tables, short_testbed, without
from klbench.studies.ppo.tasks import Task, perform

NAMES, NATS, BETA = ("k1_reward", "k2_loss", "full_loss", "k3_loss", "none"), (3.0, 8.0), 0.2
OPTIONS = configured(
    "ppo",
    vocabulary=4,
    prompts=2,
    seeds=3,
    updates=60,
    every=20,
    group=16,
    beta=BETA,
    recovery=NAMES,
    recovery_nats=NATS,
)


@pytest.fixture(scope="module")
def bed() -> testbed.Testbed:
    return short_testbed(testbed.Testbed("gru", 4, 3, 2, 8, 0, (0, 1, 2)))


@pytest.fixture(scope="module")
def rows():
    return perform(OPTIONS, 0, Task("recovery", NAMES, (BETA,), (0, 1, 2)))


@pytest.fixture(scope="module")
def recovery(rows) -> pd.DataFrame:
    return recovery_tables(rows)[0].set_index(["combination", "lost"])


def by_hand(bed, seed, prompt, nats):
    """Reference, policy and reward of one prompt's tokens."""
    p = bed.log_p[seed, prompt, 0].exp().numpy()
    q = p.copy()
    q[int(p[:-1].argmax())] *= math.exp(-nats)
    return p, q / q.sum(), bed.reward[seed, prompt].numpy()


def test_the_start(bed, recovery) -> None:
    assert bed.tree.leaves == 5
    start = bed.everywhere(without(bed, torch.tensor(NATS, dtype=torch.float64)))
    for i, nats in enumerate(NATS):
        held_, never = [], []
        for seed in range(3):
            each = [by_hand(bed, seed, prompt, nats) for prompt in range(2)]
            for prompt, (p, q, _) in enumerate(each):
                assert np.allclose(start[i, seed, prompt, 0].exp().numpy(), q, atol=1e-14)
                assert int(lost_tokens(bed)[seed, prompt]) == int(p[:-1].argmax())
            lost = [q[int(p[:-1].argmax())] for p, q, _ in each]
            held_.append(np.mean(lost))
            never.append(np.prod([(1 - q) ** 16 for q in lost]))
        assert held(bed, start)[i].tolist() == pytest.approx(held_)
        for name in NAMES:
            assert recovery.loc[(name, nats), "start_probability"] == pytest.approx(np.mean(held_))
            assert recovery.loc[(name, nats), "start_sampled"] == pytest.approx(1 - np.mean(never))


def test_exact_gradients_of_one_token(bed, recovery) -> None:
    for nats in NATS:
        norms = {name: [] for name in NAMES}
        for seed in range(3):
            found = {name: [] for name in NAMES}
            for prompt in range(2):
                p, q, r = by_hand(bed, seed, prompt, nats)
                u = np.log(q / p)
                gain = q * (r - q @ r)
                kl_qp, kl_pq = q * (u - q @ u), q - p  # with respect to the logits
                for name in NAMES:
                    penalty = {"k3_loss": kl_pq, "none": 0.0 * q}.get(name, kl_qp)
                    found[name].append((BETA * penalty - gain) / 2)
            for name in NAMES:
                norms[name].append(np.linalg.norm(np.concatenate(found[name])))
        for name in NAMES:
            assert recovery.loc[(name, nats), "expected_norm"] == pytest.approx(
                np.mean(norms[name]), rel=1e-12
            )


def test_k3_is_violent_where_the_token_is_rare_and_others_are_not(recovery, bed) -> None:
    for nats in NATS:
        for name in ("k1_reward", "k2_loss", "full_loss", "none"):
            assert recovery.loc[(name, nats), "norm_max"] < 0.5
    # One sample of 32: beta (r - 1) at a token with r = p/q, before it has become less rare.
    assert recovery.loc[("k3_loss", 8.0), "norm_max"] > 1.0
    assert (
        recovery.loc[("k3_loss", 8.0), "norm_max"] > 3 * recovery.loc[("k3_loss", 3.0), "norm_max"]
    )
    assert (
        recovery.loc[("k3_loss", 8.0), "norm_max"]
        > 10 * recovery.loc[("k3_loss", 8.0), "expected_norm"]
    )


def test_the_penalty_brings_it_back_and_a_rare_one_later(recovery) -> None:
    assert bool((recovery["sampled_share"] <= 1.0).all())
    for name in NAMES:
        often, rare = recovery.loc[(name, 3.0)], recovery.loc[(name, 8.0)]
        assert often["probability"] > rare["probability"]
        assert often["sampled_share"] > rare["sampled_share"]
        assert often["exact_probability"] > rare["exact_probability"]
    assert (
        recovery.loc[("full_loss", 8.0), "probability"]
        > 2 * recovery.loc[("none", 8.0), "probability"]
    )


def test_curves_end_where_the_table_does(rows, recovery) -> None:
    curves = recovery_tables(rows)[1]
    assert set(curves["step"]) == {0, 20, 40, 60}
    last = curves[curves["step"] == 60].set_index(["combination", "lost"])
    assert np.allclose(last["probability"], recovery.loc[last.index, "probability"])
    first = curves[curves["step"] == 0]
    assert np.allclose(first["probability"], first["exact_probability"])
    assert bool((curves["low"] <= curves["high"]).all())


def test_a_seed_does_not_know_the_others() -> None:
    alone, both = (
        perform(OPTIONS, 0, Task("recovery", ("k3_loss",), (BETA,), seeds))
        for seeds in ((1,), (0, 1))
    )
    mine = [row for row in both if row["seed"] == 1]
    pd.testing.assert_frame_equal(pd.DataFrame(alone), pd.DataFrame(mine), check_exact=True)


def test_nothing_to_recover() -> None:
    assert all(table.empty for table in recovery_tables([]))
