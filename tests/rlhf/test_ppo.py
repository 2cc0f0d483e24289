"""The loop: what it samples, what it follows, and what one replica's failure does to the others."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from klbench import estimators, gradients
from klbench.estimators.schulman import k3
from klbench.gradients import Combination
from klbench.rlhf import testbed
from klbench.rlhf.penalty import PenaltyArm, arm, estimates, standard_error
from klbench.rlhf.ppo import Recipe, train
from klbench.rlhf.testbed import expected
from klbench.rlhf.testbed.ppo_world import Adam, Replicas
from klbench.types import Draws, Rollouts

BETA = 0.2
SHORT = Recipe(updates=4, epochs=2, group=4, every=2)


def world(bed, arms, recipe, rate=0.02, clip=1.0, exact=None):
    return Replicas(
        bed,
        len(arms),
        group=recipe.group,
        rate=rate,
        clip=clip,
        steps=None,
        critic=recipe.critic,
        lag=recipe.lag,
        exact=exact,
    )


def trained(bed, names, recipe=SHORT, **kwargs):
    arms = [arm(name, BETA) for name in names]
    replicas = world(bed, arms, recipe, **kwargs)
    return replicas, list(train(replicas, arms, recipe))


def first_gradients(bed, arms, recipe):
    """Gradients of the first step of every replica."""
    replicas = world(bed, arms, recipe)
    found = []
    replicas.optimizer.descend = lambda loss, gradient, update: found.append(gradient)
    list(train(replicas, arms, dataclasses.replace(recipe, updates=1, epochs=1)))
    return found[0]


def test_samples_follow_the_policy_and_are_common_to_all_arms(bed) -> None:
    replicas = Replicas(bed, 2, group=4000, rate=0.1, clip=None, steps=None, critic=False, lag=0)
    batch = replicas.sample(0, 0)
    assert torch.equal(batch.inputs.token[0], batch.inputs.token[1])
    rollouts = replicas.rollouts(batch)
    assert torch.allclose(rollouts.log_q, rollouts.log_mu, atol=1e-14)
    assert torch.allclose(rollouts.log_q, rollouts.log_p, atol=1e-12)
    exact = bed.exact(bed.log_p[None], torch.tensor([BETA], dtype=torch.float64))
    n = batch.reward.shape[-1]
    z = (batch.reward[0].mean(-1) - exact.reward[0]) / (batch.reward[0].std(-1) / math.sqrt(n))
    assert bool((z.abs() < 5).all())
    # Every sequence's end counts: its reward is that of its leaf.
    paths = {
        tuple(t[m].tolist()): i
        for i, (t, m) in enumerate(zip(bed.tree.paths.token, bed.tree.paths.mask, strict=True))
    }
    for i in range(0, n, 997):
        sequence = tuple(batch.inputs.token[0, 1, i][batch.mask[0, 1, i]].tolist())
        assert float(batch.reward[0, 1, i]) == float(bed.reward[1, i // 4000, paths[sequence]])


@pytest.mark.parametrize("baseline", ["none", "leave_one_out"])
def test_the_first_step_follows_the_expected_gradient(baseline) -> None:
    # One prompt, sequences of two tokens: 8 batches of 2,000 samples say enough.
    bed = testbed.Testbed("table", vocabulary=2, horizon=2, prompts=1, width=2, seed=3, seeds=(0,))
    start = (bed.reference + 0.5 * torch.sin(1.0 + torch.arange(bed.reference.shape[-1])))[None]
    names = [each for each in gradients.names() if gradients.get(each).trainable]
    arms = [arm(name, 0.7) for name in names]
    recipe = Recipe(updates=8, epochs=1, group=2000, clip=None, baseline=baseline)
    replicas = world(bed, arms, recipe)
    with torch.no_grad():
        replicas.theta.copy_(start)
    found = []
    replicas.optimizer.descend = lambda loss, gradient, update: found.append(
        gradient[:, 0]
    )  # and stay
    list(train(replicas, arms, recipe))
    sampled = torch.stack(found)
    beta = torch.full((len(arms),), 0.7, dtype=torch.float64)
    _, exact = expected.gradients(bed, arms, start.expand(len(arms), -1, -1), beta, recipe.group)
    z = (sampled.mean(0) - exact[:, 0]) / (sampled.std(0) / math.sqrt(len(sampled)) + 1e-12)
    for name, each in zip(names, z, strict=True):
        assert float(each.abs().max()) < 12, name  # Student's t with 7 degrees of freedom


def test_k1_in_the_reward_is_k2_of_the_sequence_without_baseline(bed) -> None:
    arms = [arm(name, BETA) for name in ("k1_reward", "k2_sequence_loss")]
    recipe = dataclasses.replace(SHORT, baseline="none", clip=None)
    replicas = world(bed, arms, recipe)
    with torch.no_grad():
        replicas.theta += 0.1 * torch.sin(torch.arange(replicas.theta.shape[-1]))
    found = []
    replicas.optimizer.descend = lambda loss, gradient, update: found.append(gradient)
    list(train(replicas, arms, dataclasses.replace(recipe, updates=1, epochs=1)))
    assert torch.allclose(found[0][0], found[0][1], atol=1e-14)


def test_a_combinations_own_baseline_and_weight_are_kept(bed) -> None:
    names = [
        "k1_reward",
        "k1_reward_leave_one_out",
        "k1_reward_batch_mean",
        "k1_reward_sequence_ratio",
    ]
    found = first_gradients(bed, [arm(name, BETA) for name in names], SHORT)
    # At the reference, where the policy has sampled, all weights are 1 and the KL terms 0.
    for other in found[1:]:
        assert torch.allclose(other, found[0], atol=1e-14)
    lagged = dataclasses.replace(SHORT, updates=6, lag=2)
    replicas, _ = trained(bed, names, lagged)
    theta = replicas.policies
    assert torch.allclose(theta[0], theta[1], atol=1e-12)
    assert not torch.allclose(theta[0], theta[2], atol=1e-6)
    assert not torch.allclose(theta[0], theta[3], atol=1e-6)


def test_normalisation_keeps_the_proportion_of_reward_and_penalty(bed) -> None:
    arms = [arm("k2_loss", BETA)]
    by_sum, by_token = (
        first_gradients(bed, arms, dataclasses.replace(SHORT, normalisation=kind))
        for kind in ("sum", "token")
    )
    ratio = by_sum[0, 0][by_sum[0, 0].abs() > 1e-6] / by_token[0, 0][by_sum[0, 0].abs() > 1e-6]
    assert float(ratio.std()) < 1e-9  # the mean length, everywhere


@pytest.mark.parametrize(
    "changes",
    [
        {"critic": True},
        {"lag": 2},
        {"clip": None, "epochs": 1},
        {"baseline": "batch_mean", "whitening": "group"},
        {"whitening": "batch"},
        {"minibatches": 3},
        {"normalisation": "sequence"},
        {"normalisation": "token"},
        {"clamp": 0.5},
        {"target_kl": 0.3},
        {"baseline": "none"},
    ],
)
def test_every_setting_trains(bed, changes) -> None:
    recipe = dataclasses.replace(SHORT, updates=20, every=20, **changes)
    names = [
        "k1_reward",
        "k3_loss",
        "full_with_score",
        "k1_reward_sequence_ratio",
        "k1_reward_to_go",
        "none",
    ]
    replicas, (first, last) = trained(bed, names, recipe)
    beta = torch.full((len(names),), BETA, dtype=torch.float64)
    start = bed.exact(bed.log_p.expand(len(names), -1, -1, -1, -1), beta)
    end = bed.exact(bed.everywhere(replicas.policies), beta)
    assert float(end.reward.mean()) > float(start.reward.mean()) + 0.05
    assert first.update == 0
    assert last.update == 20
    assert float(first.kl_estimate.abs().max()) < 1e-12
    assert not replicas.optimizer.causes
    if "clamp" in changes:
        assert 0 < float(last.clamp_fraction.max()) <= 1
    if "target_kl" in changes:
        assert not torch.allclose(last.beta, first.beta)


@pytest.mark.parametrize("per", ["sequence", "token"])
@pytest.mark.parametrize("horizon", [None, 1_000.0])
def test_the_controller_sees_sums_over_sequences_or_means_over_tokens(bed, per, horizon) -> None:
    recipe = dataclasses.replace(
        SHORT, updates=6, every=1, target_kl=0.02, target_per=per, kl_horizon=horizon
    )
    arms = [arm("k1_reward", BETA)]
    watching = world(bed, arms, recipe)
    sample, batches = watching.sample, []

    def watched(update: int, lag: int):
        batches.append(sample(update, lag))
        return batches[-1]

    watching.sample = watched  # type: ignore[method-assign]
    reports = list(train(watching, arms, recipe))
    gain = 0.1 if horizon is None else batches[0].reward.shape[-1] / horizon
    seen_apart = False
    for now, then, batch in zip(reports, reports[1:], batches, strict=False):
        length = batch.mask.sum((-2, -1)) / batch.reward.shape[-1]
        seen = now.kl_estimate / (length if per == "token" else 1.0)
        error = ((seen - 0.02) / 0.02).clamp(-0.2, 0.2)
        torch.testing.assert_close(then.beta, now.beta * (1.0 + gain * error))
        # Of one policy the two kinds disagree whether it is beyond the target.
        other = now.kl_estimate / (1.0 if per == "token" else length)
        seen_apart |= bool(((seen > 0.02) != (other > 0.02)).any())
    assert seen_apart


def test_generalised_advantages_by_hand(bed) -> None:
    # One sequence of two tokens and one of one: reward 1 and -2, k1 terms u in the reward, beta
    # 0.5, trace 0.9.
    from klbench.rlhf.ppo import PpoBatch, _advantages

    def stacked(rows):
        return torch.tensor([[rows]], dtype=torch.float64)

    mask = torch.tensor([[[[True, True], [True, False]]]])
    u = stacked([[0.2, -0.6], [0.4, 0.0]])
    values = stacked([[0.3, 0.1], [-1.0, 0.0]])
    log_p = stacked([[-1.0, -2.0], [-1.5, 0.0]])
    rollouts = Rollouts(log_p + u, log_p, log_p + u, 0 * u, mask)
    batch = PpoBatch(stacked([1.0, -2.0]), mask, None)
    beta = torch.tensor([[0.5]], dtype=torch.float64)
    recipe = Recipe(critic=True, trace=0.9, group=2)
    for name, rewards in (
        # The whole penalty stands in each token's return: it is paid once, at the end, less what is
        # left to pay.
        ("k1_reward", ([0.0, 1.0 + 0.5 * 0.4], [-2.0 - 0.5 * 0.4])),
        ("k1_reward_to_go", ([-0.5 * 0.2, 1.0 + 0.5 * 0.6], [-2.0 - 0.5 * 0.4])),
    ):
        advantage, targets, _ = _advantages([arm(name, 0.5)], recipe, beta, batch, rollouts, values)
        (r0, r1), (r2,) = rewards
        last = r1 - 0.1
        first = (r0 + 0.1 - 0.3) + 0.9 * last
        expected_ = [[first, last], [r2 + 1.0, 0.0]]
        assert torch.allclose(advantage, stacked(expected_), atol=1e-14), name
        assert torch.allclose(targets, advantage + values)


def test_a_lag_makes_the_samples_those_of_an_older_policy(bed) -> None:
    replicas = Replicas(bed, 1, group=4, rate=0.1, clip=None, steps=None, critic=False, lag=2)
    thetas = []
    for update in range(4):
        with torch.no_grad():
            replicas.theta += 0.3 * torch.sin(torch.arange(replicas.theta.shape[-1]) + update)
        thetas.append(replicas.policies.clone())
        batch = replicas.sample(update, 2)
    older = Replicas(bed, 1, group=4, rate=0.1, clip=None, steps=None, critic=False, lag=0)
    with torch.no_grad():
        older.theta.copy_(thetas[1])
    assert torch.equal(older.sample(3, 0).inputs.log_mu, batch.inputs.log_mu)


def test_the_exact_kl_is_that_of_the_arms_that_ask_for_it(bed) -> None:
    arms = [arm(name, BETA) for name in ("k1_loss", "full_loss", "none")]
    everywhere = world(bed, arms, SHORT)
    batch = everywhere.sample(0, 0)
    full, some = (each.rollouts(batch) for each in (everywhere, world(bed, arms, SHORT, exact=[1])))
    assert torch.equal(some.kl[1], full.kl[1])
    assert some.kl[0][batch.mask[0]].isnan().all()
    assert torch.equal(some.log_q, full.log_q)


def test_estimates_and_clamp_hits_by_hand(bed) -> None:
    names = ["k1_loss", "k3_loss", "k3_sequence_loss", "full_loss", "none", "k3_verl_loss"]
    arms = [arm(name, BETA) for name in names]
    arms.append(PenaltyArm(Combination("tight", "k3_clamped:0.001", "loss"), BETA))
    replicas = world(bed, arms, SHORT)
    with torch.no_grad():
        replicas.theta += 0.3 * torch.sin(torch.arange(replicas.theta.shape[-1]))
        rollouts = replicas.rollouts(replicas.sample(0, 0))
    values, hits = estimates(arms, rollouts)
    u = (rollouts.log_q - rollouts.log_p)[0]
    assert torch.allclose(values[0], u.sum(-1))
    assert torch.allclose(values[1], (torch.exp(-u) - 1 + u).sum(-1))
    assert torch.allclose(values[2], torch.exp(-u.sum(-1)) - 1 + u.sum(-1))
    assert torch.allclose(values[3], rollouts.kl[0].sum(-1))
    assert torch.equal(values[4], values[0])
    assert torch.allclose(values[5], values[1])
    assert float(hits[:6].max()) == 0.0
    share = ((torch.exp(-u) - 1 + u) > 0.001).sum((-2, -1)) / rollouts.mask[0].sum((-2, -1))
    assert torch.allclose(hits[6], share.to(hits.dtype))
    _, clamped = estimates(arms[:1], dataclasses.replace(rollouts), clamp=0.2)
    assert torch.allclose(
        clamped[0],
        ((u.abs() > 0.2) & rollouts.mask[0]).sum((-2, -1)) / rollouts.mask[0].sum((-2, -1)),
    )


def capped(draws: Draws) -> torch.Tensor:
    return k3(draws).clamp(max=0.01)


@pytest.mark.parametrize(
    ("name", "level", "is_cut"),
    [
        ("k3_capped", "token", lambda u: torch.exp(-u) - 1 + u > 0.01),
        ("k3_capped", "sequence", lambda u: torch.exp(-u) - 1 + u > 0.01),
        ("k3_clamped:0.01", "token", lambda u: torch.exp(-u) - 1 + u > 0.01),
        ("k3_clamped:0.01", "sequence", lambda u: torch.exp(-u) - 1 + u > 0.01),
        ("k1_openrlhf", "token", lambda u: u.abs() > 10),
        ("k2_openrlhf", "token", lambda u: u * u / 2 > 10),
        ("k3_openrlhf", "token", lambda u: torch.exp(-u) - 1 + u > 10),
        ("k3_verl", "token", lambda u: (torch.exp(-u) - 1 + u > 10) | (u.abs() > 20)),
        ("k3_verl", "sequence", lambda u: (torch.exp(-u) - 1 + u > 10) | (u.abs() > 20)),
        ("k3", "token", lambda u: u > torch.inf),
    ],
)
def test_the_clamp_fraction_is_the_share_of_tokens_whose_terms_are_cut_off(
    monkeypatch, name, level, is_cut
) -> None:
    known = estimators.get("k3_clamped:0.01")
    own = dataclasses.replace(known, name="k3_capped", formula=capped)
    monkeypatch.setitem(estimators.registry._makers, "k3_capped", lambda *_: own)
    stream = torch.Generator().manual_seed(1)
    u = (
        8.0
        * torch.randn(1, 3, 50, 4, dtype=torch.float64, generator=stream)
        / torch.arange(1.0, 5.0)
    )
    u[0, 0] *= 0.01
    mask = torch.arange(4) < torch.randint(1, 5, (1, 3, 50, 1), generator=stream)
    rollouts = Rollouts(u, torch.zeros_like(u), u, torch.zeros_like(u), mask)
    _, hits = estimates([PenaltyArm(Combination("own", name, "loss", level), BETA)], rollouts)
    counted = [0, 0, 0]
    for seed, row, token in itertools.product(range(3), range(50), range(4)):
        at = rollouts.log_q[0, seed, row]
        counted[seed] += bool(
            mask[0, seed, row, token] and is_cut(at.sum() if level == "sequence" else at[token])
        )
    expected_hits = torch.tensor(counted) / mask[0].sum((-2, -1))
    assert torch.equal(hits[0], expected_hits)
    assert (name == "k3") == (float(hits.max()) == 0.0)


def test_a_replica_that_fails_is_stopped_and_the_others_go_on(bed) -> None:
    names = ["k1_reward", "k3_loss"]
    healthy, _ = trained(bed, names)
    arms = [arm(name, BETA) for name in names]
    replicas = world(bed, arms, SHORT)
    step = replicas.step

    def poisoned(loss, update):
        bad = torch.zeros_like(loss)
        bad[1, 0] = math.inf if update == 2 else 0.0
        step(loss + bad, update)

    replicas.step = poisoned
    reports = list(train(replicas, arms, SHORT))
    assert replicas.optimizer.causes == {(1, 0): (2, "the loss is inf")}
    assert [r.update for r in reports] == [0, 2, 4]
    assert bool(torch.isfinite(replicas.theta).all())
    for place in ((0, 0), (0, 1), (1, 1)):
        assert torch.equal(replicas.theta[place], healthy.theta[place])
    assert not torch.equal(replicas.theta[1, 0], healthy.theta[1, 0])


def test_overflow_of_its_own_making_is_named(bed) -> None:
    # Without a clamp exp(log p - log q) overflows where the policy has lost what the reference
    # holds.
    arms = [arm("k3_sequence_loss", BETA), arm("k1_reward", BETA)]
    replicas = world(bed, arms, SHORT)
    sample = replicas.sample

    def lost(update, lag):
        batch = sample(update, lag)
        if update == 1:
            batch.inputs.log_p[0, 1] += 2000.0
        return batch

    replicas.sample = lost
    list(train(replicas, arms, SHORT))
    assert list(replicas.optimizer.causes) == [(0, 1)]
    update, cause = replicas.optimizer.causes[0, 1]
    assert update == 1
    assert cause in ("the loss is inf", "the gradient's norm is nan", "the gradient's norm is inf")


def test_each_vector_of_a_stack_goes_by_adam_for_itself() -> None:
    """By algorithm 1 of Kingma and Ba 2015 for one vector at a time, clipped, at a falling rate.

    One is stopped half-way.
    """
    stream = np.random.default_rng(0)
    start, target = stream.normal(size=(2, 2, 3, 5))
    theta = torch.from_numpy(start.copy()).requires_grad_()
    adam = Adam(theta, 0.05, 0.5, 20)
    for update in range(10):
        loss = ((theta - torch.from_numpy(target)) ** 2).sum(-1)
        adam.step(
            loss * torch.where(torch.arange(6).view(2, 3) == 4, torch.nan, 1.0)
            if update == 6
            else loss,
            update,
        )
    assert adam.causes == {(1, 1): (6, "the loss is nan")}
    for place in np.ndindex(2, 3):
        x, first, second = start[place].copy(), np.zeros(5), np.zeros(5)
        for step in range(6 if place == (1, 1) else 10):
            gradient = 2.0 * (x - target[place])
            gradient *= min(1.0, 0.5 / np.linalg.norm(gradient))
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            moments = first / (1.0 - 0.9 ** (step + 1)), second / (1.0 - 0.999 ** (step + 1))
            x -= 0.05 * (1.0 - step / 20) * moments[0] / (np.sqrt(moments[1]) + 1e-8)
        np.testing.assert_allclose(theta.detach().numpy()[place], x, rtol=1e-12)


@pytest.mark.parametrize("model", ["gru", "transformer", "table"])
def test_nobody_else_changes_a_replicas_bits(bed, model) -> None:
    two = dataclasses.replace(bed, model=model)
    one = dataclasses.replace(two, seeds=(1,))
    many, _ = trained(two, ["k1_reward", "k1_loss", "full_loss", "k3_loss"])
    few, _ = trained(one, ["full_loss"])
    assert torch.equal(many.theta[2, 1], few.theta[0, 0])


def test_the_standard_error_of_the_estimate_is_that_of_its_error() -> None:
    """Prompts of whose policies some have left the reference and some have not.

    (estimate - exact) / se has an sd of 1.
    """
    bed = testbed.Testbed(
        "table", vocabulary=2, horizon=2, prompts=6, width=2, seed=5, seeds=tuple(range(300))
    )
    arms = [arm(name, BETA) for name in ("k1_reward", "full_loss")]
    recipe = Recipe(updates=0, group=64)
    replicas = world(bed, arms, recipe)
    draws = torch.from_numpy(np.random.default_rng(2).normal(size=replicas.theta.shape[1:]))
    with torch.no_grad():
        replicas.theta += draws * torch.linspace(0.0, 0.7, draws.shape[-1], dtype=torch.float64)
        exact = bed.exact(
            bed.everywhere(replicas.policies), torch.full((2,), BETA, dtype=torch.float64)
        ).kl
    (report,) = train(replicas, arms, recipe)
    z = (report.kl_estimate - exact) / report.kl_estimate_se
    assert bool((z.mean(-1).abs() < 5 / math.sqrt(300)).all())
    assert bool(
        ((z.std(-1) - 1.0).abs() < 5 / math.sqrt(2 * 300)).all()
    )  # the standard error of an sd of normal values


def test_one_sequence_a_prompt_does_not_tell_the_error() -> None:
    values = torch.tensor([[1.0, 3.0, 10.0, 14.0]])
    assert float(standard_error(values, 2)) == pytest.approx(
        math.sqrt((2.0 + 8.0) / 2 / 4)
    )  # variances 2 and 8, by hand
    assert bool(standard_error(values, 1).isnan().all())
