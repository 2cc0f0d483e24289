"""DPO on the testbed against its exact population optimum, scipy's minimiser, and pairs counted
one by one.
"""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from klbench import divergences
from klbench.rlhf import testbed
from klbench.rlhf.dpo import DpoBatch, judged, train
from klbench.rlhf.options import DpoArm
from klbench.rlhf.preferences import dpo_loss
from klbench.rlhf.testbed import dpo_world, fixed_points, implied
from klbench.rlhf.testbed.expected import log_probs

F64 = torch.float64
BETA, SCALE = 0.3, 4.0
NAMES = ("kl_qp", "js", "hellinger", "kl_pq", "chi2", "alpha:0.3")


def arm(name: str = "kl_qp", smoothing: float = 0.0) -> DpoArm:
    return DpoArm(name, SCALE * BETA / divergences.get(name).curvature, name, smoothing)


def own(bed, each, flips=0.0) -> torch.Tensor:
    wrong = each.smoothing + flips - 2.0 * each.smoothing * flips
    return implied.optimum(
        bed, each.divergence, implied.population_rewards(bed, SCALE, wrong) / each.beta
    )


ARMS = [*map(arm, NAMES), arm(smoothing=0.2)]


def test_the_population_optimum_of_kl_from_the_reference_is_the_optimum(bed) -> None:
    beta = torch.tensor([BETA], dtype=F64)
    torch.testing.assert_close(own(bed, arm()), bed.log_optimum(beta)[0], rtol=0, atol=1e-12)


def test_the_optimum_of_kl_to_the_reference_is_the_predicted_fixed_point(bed) -> None:
    beta = torch.tensor([BETA], dtype=F64)
    leaves = bed.tree.sum_along(fixed_points.predicted(bed, "sequence_k3", beta))[0]
    torch.testing.assert_close(own(bed, arm("kl_pq")), leaves, rtol=0, atol=1e-9)


@pytest.mark.parametrize("each", ARMS, ids=lambda each: f"{each.name}-{each.smoothing}")
def test_optima_are_where_the_populations_gradient_vanishes(bed, each) -> None:
    preferences, best = dpo_world.population(bed, SCALE), own(bed, each)
    torch.testing.assert_close(best.logsumexp(-1), torch.zeros(2, 2, dtype=F64), rtol=0, atol=1e-12)
    assert float(implied.population_gradient(bed, [each], best[None], preferences).max()) < 1e-10
    other = own(bed, arm("js" if each.name != "js" else "kl_qp"))
    assert float(implied.population_gradient(bed, [each], other[None], preferences).min()) > 1e-3
    slope = divergences.get(each.divergence).slope(bed.leaf_log_p - best)
    rewards = implied.population_rewards(bed, SCALE, each.smoothing) / each.beta
    constant = rewards - slope  # its derivative is the reward's but for a constant of the prompt
    torch.testing.assert_close(constant, constant[..., :1].expand_as(constant), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("each", "flips"),
    [(arm(), 0.0), (arm("hellinger"), 0.0), (arm(smoothing=0.2), 0.0), (arm(), 0.15)],
)
def test_optima_are_scipys_minimisers(each, flips) -> None:
    small = testbed.Testbed(
        "table", vocabulary=2, horizon=2, prompts=1, width=4, seed=3, seeds=(0,)
    )
    preferences = dpo_world.population(small, SCALE, flips)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.from_numpy(flat.reshape(1, 1, -1)).requires_grad_()
        leaves = small.tree.sum_along(log_probs(small, theta, free=True))
        value = judged([each], dpo_world.ratios(small, leaves, preferences)).loss.sum()
        return float(value.detach()), torch.autograd.grad(value, theta)[0].flatten().numpy()

    start = small.log_p.flatten().numpy().copy()
    found = minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 0, "gtol": 1e-11, "maxiter": 5000},
    )
    leaves = small.tree.sum_along(
        log_probs(small, torch.from_numpy(found.x.reshape(1, 1, -1)), free=True)
    )[0]
    best = own(small, each, flips)
    assert float((best.exp() - leaves.exp()).abs().max()) < 1e-6
    assert float((best.exp() * (best - leaves)).sum()) < 1e-6


def test_kl_of_the_policy_is_plain_dpo(bed) -> None:
    noise = torch.randn(bed.log_p.shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    log_q = bed.tree.sum_along(bed.log_p + noise)[None]
    batch = dpo_world.ratios(bed, log_q, dpo_world.sampled(bed, 50, SCALE))
    margin = SCALE * BETA * (batch.chosen - batch.rejected)
    found = judged([arm()], batch)
    torch.testing.assert_close(
        found.loss, -torch.nn.functional.logsigmoid(margin).mean(-1), rtol=1e-15, atol=1e-15
    )
    torch.testing.assert_close(
        found.accuracy, ((margin > 0).double() + 0.5 * (margin == 0).double()).mean(-1)
    )
    torch.testing.assert_close(found.margin, margin.mean(-1), rtol=1e-14, atol=1e-14)
    for each in ARMS:
        expected = dpo_loss(
            batch.chosen, batch.rejected, each.beta, each.smoothing, each.divergence
        ).mean(-1)
        torch.testing.assert_close(judged([each], batch).loss, expected, rtol=1e-13, atol=0)


def test_the_population_is_what_many_pairs_are_like(bed) -> None:
    n, flips = 40_000, 0.1
    preferences, every = (
        dpo_world.sampled(bed, n, SCALE, flips),
        dpo_world.population(bed, SCALE, flips),
    )
    log_q = own(bed, arm("js"))[None]
    sample, whole = dpo_world.ratios(bed, log_q, preferences), dpo_world.ratios(bed, log_q, every)
    assert whole.weight is not None
    torch.testing.assert_close(whole.weight.sum(-1), torch.ones(2, dtype=F64))
    for each in (arm(), arm(smoothing=0.2), arm("hellinger")):
        single = dpo_loss(
            sample.chosen, sample.rejected, each.beta, each.smoothing, each.divergence
        )
        error = single.std(-1) / n**0.5
        assert bool(((single.mean(-1) - judged([each], whole).loss).abs() < 5 * error).all())
        assert bool(
            (
                (judged([each], sample).accuracy - judged([each], whole).accuracy).abs()
                < 5 * 0.5 / n**0.5
            ).all()
        )


def test_fewer_pairs_are_the_first_of_more_and_one_prompts(bed) -> None:
    few, many = dpo_world.sampled(bed, 20, SCALE), dpo_world.sampled(bed, 300, SCALE)
    assert torch.equal(few.chosen, many.chosen[:, :20])
    assert torch.equal(few.rejected, many.rejected[:, :20])
    assert torch.equal(many.chosen // bed.tree.leaves, many.rejected // bed.tree.leaves)
    flipped = dpo_world.sampled(bed, 300, SCALE, flips=0.3)
    turned = (
        (flipped.chosen == many.rejected)
        & (flipped.rejected == many.chosen)
        & (many.chosen != many.rejected)
    )
    assert 0.15 < float(turned.double().mean()) < 0.45
    assert bool((turned | (flipped.chosen == many.chosen)).all())


def test_the_implicit_reward_fits_the_true_one_at_the_optimum_alone(bed) -> None:
    arms = [arm(name) for name in NAMES]
    best = torch.stack([own(bed, each) for each in arms])
    for weight in (bed.leaf_log_p.exp(), best.exp()):
        at = implied.fit(bed, arms, best, SCALE, weight)
        assert float((at.slope - 1.0).abs().max()) < 1e-9
        assert float((at.correlation - 1.0).abs().max()) < 1e-9
    off = implied.fit(bed, [arm()], own(bed, arm("chi2"))[None], SCALE, bed.leaf_log_p.exp())
    assert float((off.slope - 1.0).abs().min()) > 1e-2


def test_divergences_of_policies_are_their_definition(bed) -> None:
    log_q = own(bed, arm("js"))
    for name in NAMES:
        by_hand = (
            (log_q.exp() * divergences.get(name).f((bed.leaf_log_p - log_q).exp())).sum(-1).mean(-1)
        )
        torch.testing.assert_close(
            implied.divergence_of(bed, log_q, name), by_hand, rtol=1e-9, atol=1e-12
        )


def test_training_comes_nearer_to_its_own_optimum_and_stops_one_replica_alone(bed) -> None:
    arms = [arm(), arm("kl_pq")]
    world = dpo_world.PreferenceReplicas(
        bed, 2, dpo_world.population(bed, SCALE), rate=0.1, clip=None, steps=150, free=True
    )
    step = world.step

    def poisoned(loss: torch.Tensor, number: int) -> None:
        place = loss.new_zeros(loss.shape)
        place[1, 0] = math.nan if number == 40 else 0.0
        step(loss + place, number)

    world.step = poisoned  # type: ignore[method-assign]
    reports = list(train(world, arms, steps=150, every=50))
    assert [report.step for report in reports] == [0, 50, 100, 150]
    torch.testing.assert_close(reports[0].loss, torch.full((2, 2), math.log(2), dtype=F64))
    assert bool((reports[-1].loss[0] < reports[1].loss[0]).all())
    assert world.optimizer.causes == {(1, 0): (40, "the loss is nan")}
    log_q = bed.tree.sum_along(world.log_q).detach()
    left = (log_q[0].exp() * (log_q[0] - own(bed, arm()))).sum(-1).mean(-1)
    before = (bed.leaf_log_p.exp() * (bed.leaf_log_p - own(bed, arm()))).sum(-1).mean(-1)
    assert bool((left < 0.02 * before).all())


def test_an_epoch_has_every_pair_once_and_a_stack_changes_nothing(bed) -> None:
    preferences = dpo_world.sampled(bed, 12, SCALE)

    def world(arms: int) -> dpo_world.PreferenceReplicas:
        return dpo_world.PreferenceReplicas(
            bed, arms, preferences, rate=0.05, clip=1.0, steps=8, batch=4
        )

    seen = torch.cat([world(1)._rows(step, 4) for step in range(3)])
    assert sorted(seen.tolist()) == list(range(12))
    assert world(1)._rows(3, 4).tolist() != world(1)._rows(0, 4).tolist()
    alone, both = world(1), world(2)
    list(train(alone, [arm()], steps=8, every=8))
    list(train(both, [arm(), arm("chi2")], steps=8, every=8))
    assert torch.equal(alone.theta[0], both.theta[0])


def test_a_single_model_in_float32_is_a_stack_of_one() -> None:
    weights = torch.zeros(3, requires_grad=True)
    reference = torch.zeros(3).log_softmax(-1)

    class One:
        def log_ratios(self, step: int) -> DpoBatch:
            ratio = weights.log_softmax(-1) - reference
            return DpoBatch(ratio[[0, 0, 1]][None, None], ratio[[1, 2, 2]][None, None])

        def step(self, loss: torch.Tensor, step: int) -> None:
            (gradient,) = torch.autograd.grad(loss.sum(), weights)
            with torch.no_grad():
                weights.sub_(gradient)

    last = list(train(One(), [DpoArm("dpo", 0.5)], steps=20, every=5, start=10))[-1]
    assert last.step == 20
    assert float(last.accuracy) == 1.0
    assert weights.tolist() == sorted(weights.tolist(), reverse=True)
