"""IPO, hinge, chiPO, KTO and length-normalised losses.

By hand, and against the least loss that SciPy finds.
"""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from klbench.rlhf import preferences, testbed
from klbench.rlhf.dpo import DpoBatch, judged, train
from klbench.rlhf.options import CHIPO, DpoArm
from klbench.rlhf.testbed import dpo_world, implied
from klbench.rlhf.testbed.expected import log_probs
from klbench.studies.dpo import estimates
from klbench.studies.dpo.options import arms

F64 = torch.float64
SCALE, BETA = 4.0, 0.2
LOSSES = ("ipo", "chipo", "kto", "dpo_norm", "simpo", "simpo:0.5")


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=F64)


def arm(name: str, beta: float = SCALE * BETA, tokens: int = 3) -> DpoArm:
    return arms((), (), (name,), beta, tokens)[0]


def test_each_loss_of_a_margin_of_six_by_hand() -> None:
    pair = t(6.0), t(0.0)
    assert preferences.dpo_loss(*pair, 0.1).item() == pytest.approx(0.437488, abs=5e-7)
    assert preferences.hinge_loss(*pair, 0.1).item() == pytest.approx(0.4)
    assert preferences.ipo_loss(*pair, 0.1).item() == pytest.approx((6.0 - 1 / 0.2) ** 2) == 1.0
    # phi(t) = log t + t - 1: 0.1 (6 + e^6 - 1) = 40.84.
    margin = 0.1 * (6.0 + math.exp(6.0) - 1.0)
    assert preferences.chipo_loss(*pair, 0.1).item() == pytest.approx(math.log1p(math.exp(-margin)))
    clipped = preferences.chipo_loss(*pair, 0.1, limit=2.0).item()
    assert clipped == pytest.approx(math.log1p(math.exp(-2.0)))
    desirable, undesirable = preferences.kto_loss(*pair, 1.0, 0.1)
    assert desirable.item() == pytest.approx(1.0 - 1.0 / (1.0 + math.exp(-0.5)))
    assert undesirable.item() == pytest.approx(1.0 - 1.0 / (1.0 + math.exp(-0.1)))
    tokens = t(3.0), t(2.0)
    mean = preferences.normalised_dpo_loss(t(6.0), t(1.0), tokens, 0.4).item()
    assert mean == pytest.approx(math.log1p(math.exp(-0.4 * (2.0 - 0.5))))
    reference_free = preferences.simpo_loss(t(-6.0), t(-5.0), tokens, 2.0, 0.3).item()
    assert reference_free == pytest.approx(math.log1p(math.exp(-(2.0 * (-2.0 + 2.5) - 0.3))))


def test_the_reference_point_is_the_mean_over_all_batches_and_not_below_zero() -> None:
    point = preferences.kto_reference_point
    assert point([t(2.0), t(8.0), t(4.0), t(6.0)]).item() == 5.0
    # Each answer alike, and the clamp after the mean.
    assert point([t(1.0, -2.0, 4.0), t(5.0)]).item() == 2.0
    assert point([t(-9.0), t(3.0)]).item() == 0.0
    assert not point([t(2.0).requires_grad_()]).requires_grad


@pytest.fixture(scope="module")
def small() -> testbed.Testbed:
    return testbed.Testbed("table", vocabulary=2, horizon=2, prompts=1, width=4, seed=3, seeds=(0,))


def population_loss(bed, each, flat, flips=0.0) -> tuple[float, np.ndarray]:
    theta = torch.from_numpy(flat.reshape(1, 1, -1)).requires_grad_()
    leaves = bed.tree.sum_along(log_probs(bed, theta, free=True))
    value = judged([each], dpo_world.ratios(bed, leaves, dpo_world.population(bed, SCALE, flips)))
    loss = value.loss.sum()
    return float(loss.detach()), torch.autograd.grad(loss, theta)[0].flatten().numpy()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("flips", [0.0, 0.15])
def test_optima_are_scipys_minimisers(small, name, flips) -> None:
    each = arm(name)
    best = implied.arm_optimum(small, each, SCALE, flips)
    found = minimize(
        lambda flat: population_loss(small, each, flat, flips),
        small.log_p.flatten().numpy().copy(),
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 0, "gtol": 1e-12, "maxiter": 5000},
    )
    theta = torch.from_numpy(found.x.reshape(1, 1, -1))
    leaves = small.tree.sum_along(log_probs(small, theta, free=True))[0]
    assert float((best.exp() - leaves.exp()).abs().max()) < 1e-6


@pytest.mark.parametrize("name", LOSSES)
def test_optima_are_where_the_populations_gradient_vanishes(bed, name) -> None:
    each, every = arm(name), dpo_world.population(bed, SCALE)
    best = implied.arm_optimum(bed, each, SCALE)
    torch.testing.assert_close(best.exp().sum(-1), torch.ones(2, 2, dtype=F64), rtol=0, atol=1e-12)
    assert float(implied.population_gradient(bed, [each], best[None], every).max()) < 1e-10
    other = implied.arm_optimum(bed, DpoArm("js", 0.5, "js"), SCALE)
    assert float(implied.population_gradient(bed, [each], other[None], every).min()) > 1e-3


def test_the_least_hinge_loss_is_that_of_the_linear_program(bed) -> None:
    each, wrong = arm("hinge"), 0.1
    best = implied.arm_optimum(bed, each, SCALE, wrong)
    batch = dpo_world.ratios(bed, best[None], dpo_world.population(bed, SCALE, wrong))
    ours = judged([each], batch).loss[0]
    n = bed.tree.leaves
    label, p = implied.preferred(bed, SCALE, wrong), bed.leaf_log_p.exp()
    i, j = (~np.eye(n, dtype=bool)).nonzero()
    pairs = np.arange(len(i))
    # Least sum of w x (and each pair comes in both orders), x >= 1 - (r_i - r_j) and x >= 0, for
    # every pair in both orders.
    rows = np.zeros((len(i), n + len(i)))
    rows[pairs, i], rows[pairs, j], rows[pairs, n + pairs] = -1.0, 1.0, -1.0
    bounds = [(None, None)] * n + [(0, None)] * len(i)
    for k in range(2):
        least = 0.0
        for x in range(2):
            weight = (label[k, x] * p[k, x][:, None] * p[k, x])[i, j].numpy()
            cost = np.concatenate([np.zeros(n), weight])
            least += 2.0 * linprog(cost, A_ub=rows, b_ub=-np.ones(len(i)), bounds=bounds).fun
            least += float((p[k, x] ** 2).sum())  # an answer with itself
        assert float(ours[k]) == pytest.approx(least / 2, rel=1e-9)
    gaps = each.beta * (best - bed.leaf_log_p)
    steps = gaps - gaps[..., :1]
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-9)
    assert float(steps.amax() - steps.amin()) >= 1.0


def test_ipo_aims_at_the_probability_of_being_preferred(bed) -> None:
    p = bed.leaf_log_p
    often = (implied.preferred(bed, SCALE) * p.exp()[..., None, :]).sum(-1)
    expected = (p + often / arm("ipo").beta).log_softmax(-1)
    torch.testing.assert_close(implied.arm_optimum(bed, arm("ipo"), SCALE), expected)


def test_kto_leaves_nothing_to_what_is_more_often_undesirable(bed) -> None:
    best = implied.arm_optimum(bed, arm("kto"), SCALE)
    often = (implied.preferred(bed, SCALE) * bed.leaf_log_p.exp()[..., None, :]).sum(-1)
    assert torch.equal(best.exp() > 0.0, often > 0.5)
    assert bool(implied.arm_optimum(bed, arm("kto", beta=1.5), SCALE).isnan().all())
    fit = implied.fit(bed, [arm("kto")], best[None], SCALE, best.exp()[None])
    assert bool(fit.slope.isnan().all())
    # Reference without the best: KL and not NaN, though the gap there is infinite.
    exact = (
        (torch.where(best.exp() > 0, best.exp() * (best - bed.leaf_log_p), 0.0)).sum(-1).mean(-1)
    )
    torch.testing.assert_close(implied.divergence_of(bed, best, "kl_qp"), exact)


def test_the_bias_of_the_reference_point_by_enumeration_and_by_sampling(bed) -> None:
    """At a policy far from its reference the answers of the data say nothing of the KL."""
    log_q = implied.arm_optimum(bed, arm("dpo_norm"), SCALE)
    sample = dpo_world.sampled(bed, 20_000, SCALE)
    rows = estimates.points(bed, log_q, sample, 20_000, 7)
    log_ratio = log_q - bed.leaf_log_p
    for k, row in enumerate(rows):
        assert row["kl"] == pytest.approx(float((log_q[k].exp() * log_ratio[k]).sum(-1).mean()))
        by_hand = [
            float((bed.leaf_log_p[k, other].exp() * log_ratio[k, prompt]).sum())
            for prompt in range(2)
            for other in range(2)
        ]
        assert row["mismatched"] == pytest.approx(np.mean(by_hand))
        assert row["all"] == max(0.0, row["mismatched"]) <= row["one"]
        assert row["point"] == row["all"] == 0.0 < row["kl"]
        details = dpo_world.ratios(bed, log_q[None], sample).detailed("kto")
        drawn = details.mismatched(slice(0, 1))[0, k]
        # Neighbours share an answer, so the error is that of half as many.
        error = float(drawn.std()) / math.sqrt(len(drawn) / 2)
        assert abs(float(drawn.mean()) - row["mismatched"]) < 5 * error


@pytest.mark.parametrize("name", [*LOSSES, "hinge"])
def test_training_ends_near_the_least_loss(bed, name) -> None:
    each, every = arm(name), dpo_world.population(bed, SCALE)
    world = dpo_world.PreferenceReplicas(bed, 1, every, rate=0.1, clip=None, steps=250, free=True)
    reports = list(train(world, [each], steps=250, every=125))
    best = implied.arm_optimum(bed, each, SCALE)
    least = judged([each], dpo_world.ratios(bed, best[None], every)).loss
    gap = reports[-1].loss - least
    assert bool((gap > -1e-9).all())
    assert bool((gap < 0.02 * (reports[0].loss - least)).all())


def test_losses_that_need_details_say_so() -> None:
    batch = DpoBatch(t(1.0)[None, None], t(0.0)[None, None])
    assert judged([arm("ipo")], batch).loss.shape == (1, 1)
    for name in ("kto", "simpo"):
        with pytest.raises(ValueError, match=f"{name} needs the details of pairs"):
            judged([arm(name)], batch)


def test_chipo_is_dpo_with_two_penalties() -> None:
    chosen, rejected = t(0.5, -2.0, 30.0), t(-0.5, 1.0, 29.0)
    torch.testing.assert_close(
        preferences.chipo_loss(chosen, rejected, 0.3),
        preferences.dpo_loss(chosen, rejected, 0.3, divergence=CHIPO),
        rtol=1e-14,
        atol=0,
    )
