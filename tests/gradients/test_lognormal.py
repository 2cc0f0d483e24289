"""The closed forms of independent Gaussian steps against samples, quadrature, and known marks."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from klbench import gradients
from klbench.gradients import lognormal
from klbench.gradients.exact import _whole
from klbench.gradients.lognormal import Lognormal
from klbench.metrics.tails import pareto_khat
from klbench.types import Rollouts

AT, TOKENS = Lognormal(0.05, 0.02), 5
SPECS = (
    "k2/loss/sequence/truncated_ratio:3",
    "k1/reward_to_go/token/sequence_ratio",
    "k1/reward/token/sequence_mask:1.1",
    "k3/loss/token/geometric_ratio:differentiated",
    "k3/loss/token/truncated_ratio:1.2:differentiated",
)


def test_every_closed_form_is_what_samples_say() -> None:
    n, stream = 200_000, np.random.default_rng(0)
    y = stream.standard_normal((n, TOKENS)) - AT.lam
    log_q = -0.5 * y**2
    log_p = log_q - AT.delta * y - AT.kl_token
    log_mu = log_q - AT.lam * y - AT.lag_token
    sides = [
        torch.from_numpy(each) for each in (log_q, log_p, log_mu, np.full_like(y, AT.kl_token))
    ]
    rollouts = Rollouts(*sides, torch.ones(n, TOKENS, dtype=torch.bool))
    length, known = math.sqrt(TOKENS) * AT.delta, 0
    for name in (*gradients.names(), *SPECS):
        combination = gradients.get(name)
        found = lognormal.measure(combination, AT, TOKENS)
        if found is None:
            assert name not in SPECS
            continue
        known += 1
        whole = _whole(combination, rollouts)[0]
        each = (whole.token * whole.log_scale.exp()).numpy() * y
        each = each if whole.full is None else each + whole.full.numpy() * AT.delta
        squares = ((each - each.mean(0)) ** 2).sum(-1)
        error = math.sqrt(squares.mean() / n)
        bias = np.linalg.norm(each.mean(0) - AT.delta)
        assert abs(bias - found.rel_bias * length) <= 5 * error + 1e-9, name
        spread = 5 * squares.std() / math.sqrt(n)
        assert abs(squares.mean() - (found.rel_std * length) ** 2) <= spread + 1e-9, name
    assert known >= 30


@pytest.mark.parametrize(("nats", "ess"), [(1.0, 0.135), (2.0, 0.018), (5.0, 4.5e-5)])
def test_known_sizes_of_samples(nats: float, ess: float) -> None:
    found = lognormal.log_ess(
        gradients.get("k1_reward_sequence_ratio"), Lognormal(0.1, nats / 64), 64
    )
    assert found == pytest.approx(-2.0 * nats, rel=1e-12)
    assert math.exp(found) == pytest.approx(ess, rel=0.02)


@pytest.mark.parametrize(("nats", "share"), [(0.1, 0.987), (1.0, 0.53), (5.0, 0.11)])
def test_known_shares_that_a_cap_of_3_keeps(nats: float, share: float) -> None:
    found = lognormal.kept(nats, 3.0)
    assert found == pytest.approx(share, abs=0.005)
    density = norm(-nats, math.sqrt(2.0 * nats)).pdf
    integral = quad(lambda x: math.exp(x) * density(x), -50, math.log(3.0), epsabs=1e-12, limit=200)
    assert found == pytest.approx(integral[0], abs=1e-10)


def test_no_cap_that_is_never_reached_changes_anything() -> None:
    plain, capped = (
        lognormal.measure(gradients.get(f"k1/reward/token/{correction}"), AT, 64)
        for correction in ("sequence_ratio", "sequence_mask:1e30")
    )
    assert plain is not None
    assert capped == pytest.approx(plain, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("nats", [0.05, 0.5, 2.0])
def test_the_tail_is_as_heavy_as_a_batch_sees_it(nats: float) -> None:
    stream, n = np.random.default_rng(5), 256
    sd = math.sqrt(2.0 * nats)
    found = [pareto_khat(sd * stream.standard_normal(n) - nats)[0] for _ in range(400)]
    typical = pareto_khat(lognormal.quantiles(nats, n))[0]
    assert abs(np.mean(found) - typical) <= 5 * np.std(found) / math.sqrt(len(found))
