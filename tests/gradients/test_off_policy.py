"""Corrections, three policies and placements in combinations.

By backward passes, formulas written out, and identities.
"""

import math

import pytest
import torch
from test_gradients import every_sequence, one_by_one, sequence

from klbench import gradients, pairs, streams, trainers
from klbench.gradients import closed, exact, sampled
from klbench.gradients.kinds import KINDS
from klbench.gradients.objective import OBJECTIVES, Objective, bias_at_optimum
from klbench.gradients.surrogate import surrogate
from klbench.gradients.truncation import truncation
from klbench.types import ConfigError, Rollouts

TINKER = "k1/own_token/token/token_ratio/token_mean"
THREE = {"lag": 0.2, "mismatch": 0.1, "horizon": 2, "prompts": 2}


def of_each(losses, theta):
    """The gradient of each loss, ``(n, parameters)``; the graph may be asked again."""
    return torch.autograd.grad(
        losses,
        theta,
        torch.eye(len(losses), dtype=theta.dtype),
        is_grads_batched=True,
        retain_graph=True,
    )[0]


def spelled(kind):
    """Combinations with a factor, at every level at which it goes with something."""
    bounds = (
        ":" + "-".join(("0.8", "1.1")[-len(KINDS[kind].bounds) :]) if KINDS[kind].bounds else ""
    )
    if kind in ("binary_kl", "tv", "fall", "dppo_kl", "dppo_tv", "vaco", "opsm") or kind.endswith(
        ("k2", "k3", "tv", "_kl")
    ):
        bounds = ":0.02"
    if kind == "block_ratio":
        bounds = ":2"
    places = ("k1/reward_to_go/token", "k1/reward/sequence", "k3/loss/token", "full_kl/full/token")
    for place in places:
        for sides in ("", "@q:old", "@old:mu"):
            try:
                yield gradients.get(f"{place}/{kind}{bounds}{sides}")
            except ConfigError:
                continue


@pytest.mark.parametrize("kind", KINDS)
def test_enumeration_with_three_policies_is_the_sum_over_backward_passes(kind):
    task = sequence(model="table", **THREE).gradient_task()
    some = list(spelled(kind))
    assert some
    for combination, found in zip(some, exact.all_moments(some, task), strict=True):
        mean, variance = one_by_one(combination, task)
        torch.testing.assert_close(found.mean, mean, rtol=1e-9, atol=1e-11, msg=combination.spec)
        assert found.variance == pytest.approx(variance, rel=1e-9, abs=1e-11), combination.spec


UNBIASED = [
    each
    for each in map(gradients.get, gradients.names())
    if each.off_policy and each.claim == "grad KL(q‖p)"
]


@pytest.mark.parametrize("model", ["table", "gru", "transformer"])
def test_what_is_unbiased_whoever_samples_is_so_with_an_engine_of_its_own(model):
    task = sequence(model=model, lag=0.2, mismatch=0.1).gradient_task()
    target = task.gradient("kl_qp")
    assert len(UNBIASED) >= 13
    for combination, found in zip(UNBIASED, exact.all_moments(UNBIASED, task, 4), strict=True):
        assert float((found.mean - target).norm() / target.norm()) < 1e-12, combination.name


def test_the_exact_kl_with_the_ratio_of_the_tokens_before_it_is_the_quietest():
    task = pairs.get("sequence")(
        vocabulary=3, horizon=4, prompts=2, kl=1.0, lag=0.3
    ).gradient_task()
    noise = {
        each.name: found.variance
        for each, found in zip(UNBIASED, exact.all_moments(UNBIASED, task), strict=True)
    }
    per_decision = {
        name: noise.pop(name) for name in list(noise) if name.startswith("full_with_score_d")
    }
    assert len(per_decision) == 3
    assert max(per_decision.values()) < min(noise.values())
    assert noise["k3_prefix_ratio_loss"] < noise["k1_prefix_ratio_loss"]


def test_per_decision_weights_are_a_differentiated_ratio_of_the_tokens_before():
    """``grad sum over t of W_{<t} kl_t``, differentiated through both."""
    task = sequence(model="transformer", **THREE).gradient_task()
    samples, _ = every_sequence(task, 0)
    theta = task.theta().requires_grad_()
    rollouts = task.rollouts(theta, samples)
    log_ratio = rollouts.log_q - rollouts.log_mu
    before = (log_ratio.cumsum(-1) - log_ratio).exp()
    expected = of_each((before * rollouts.kl).sum(-1), theta)
    for spec in (
        "full_kl/full_with_score/token/decision_ratio",
        "full_kl/full/token/decision_ratio:differentiated",
    ):
        found = of_each(surrogate(gradients.get(spec), rollouts), theta)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    # k1 of a token, too, has the ratio of the tokens up to it, at every score before it.
    weight, u = log_ratio.cumsum(-1).exp().detach(), -(rollouts.log_p - rollouts.log_q).detach()
    later = (weight * u).flip(-1).cumsum(-1).flip(-1)
    torch.testing.assert_close(
        of_each(surrogate(gradients.get("k1_reward_decision_ratio"), rollouts), theta),
        of_each((later * rollouts.log_q * rollouts.mask).sum(-1), theta),
        rtol=1e-10,
        atol=1e-12,
    )


def test_gamma_goes_from_a_tokens_own_term_to_all_that_follow():
    log_q = torch.tensor([[-1.0, -2.0, -0.5]], dtype=torch.float64, requires_grad=True)
    u = torch.tensor([[0.3, -0.7, 1.1]], dtype=torch.float64)
    mask = torch.ones(1, 3, dtype=torch.bool)
    rollouts = Rollouts(log_q, log_q.detach() - u, log_q.detach(), torch.zeros(1, 3), mask)
    for gamma in (0.0, 0.5, 1.0):
        loss = surrogate(gradients.get(f"k1/reward_to_go/token/none/none/gamma={gamma}"), rollouts)
        (found,) = torch.autograd.grad(loss.sum(), log_q, retain_graph=True)
        expected = [sum(gamma ** (j - t) * float(u[0, j]) for j in range(t, 3)) for t in range(3)]
        assert found[0].tolist() == pytest.approx(expected)
    assert (
        gradients.get("k1/reward_to_go/token/none/none/gamma=1").spec
        == gradients.get("k1_reward_to_go").spec
    )


def test_a_tokens_own_k1_is_k2_in_the_loss_and_its_exact_kl_a_baseline():
    task = sequence().gradient_task()
    names = ("k1_own_token", "k2_loss", "k1_own_token_token_kl", "full_loss")
    own, k2, less, full = exact.all_moments([gradients.get(name) for name in names], task)
    torch.testing.assert_close(own.mean, k2.mean, rtol=1e-10, atol=1e-13)
    assert own.variance == pytest.approx(k2.variance, rel=1e-9)
    torch.testing.assert_close(less.mean, full.mean, rtol=1e-10, atol=1e-13)
    assert full.variance < min(less.variance, own.variance)


def test_a_tokens_own_term_may_be_divided_by_the_length():
    task = sequence(model="table", prompts=1, lag=0.2).gradient_task()
    specs = ("k1/own_token/token:mean/token_ratio", "k2/loss/token:mean/token_ratio")
    own, k2 = exact.all_moments([gradients.get(spec) for spec in specs], task)
    torch.testing.assert_close(own.mean, k2.mean, rtol=1e-10, atol=1e-13)
    assert own.variance == pytest.approx(k2.variance, rel=1e-9)


def test_prime_rls_penalty_is_twice_k2_to_whoever_sampled():
    """``kl_tau * log_importance_ratio**2``, log q/mu of each token, as it is written there."""
    task = sequence(model="table", prompts=1, lag=0.2).gradient_task()
    samples, p = every_sequence(task, 0)
    theta = task.theta().requires_grad_()
    rollouts = task.rollouts(theta, samples)
    loss = ((rollouts.log_q - rollouts.log_mu) ** 2 * rollouts.mask).sum(-1)
    (expected,) = torch.autograd.grad(p @ loss, theta)
    found = exact.moments(gradients.get("k2_sampler_loss"), task).mean
    torch.testing.assert_close(2.0 * found, expected, rtol=1e-9, atol=1e-12)


def test_the_unnormalised_kl_adds_a_score_to_the_normalised_ones_gradient():
    """Sample by sample, ``w s`` less: its mean is 0.

    (RPG, table 1: ``log w`` against ``log w + 1``.)
    """
    task = sequence(model="table", prompts=1, lag=0.2).gradient_task()
    samples, p = every_sequence(task, 0)
    theta = task.theta().requires_grad_()
    rollouts = task.rollouts(theta, samples)
    weight = (rollouts.log_q - rollouts.log_mu).sum(-1).exp().detach()
    score = of_each(rollouts.log_q.sum(-1), theta)
    r = (rollouts.log_p - rollouts.log_q).sum(-1).exp().detach()[:, None]
    names = ("kl_qp_ratio_loss", "ukl_qp_ratio_loss", "ukl_pq_ratio_loss")
    normalised, plain, pq = (
        of_each(surrogate(gradients.get(name), rollouts), theta) for name in names
    )
    torch.testing.assert_close(normalised - plain, weight[:, None] * score)
    torch.testing.assert_close(plain, -weight[:, None] * r.log() * score)
    torch.testing.assert_close(pq, weight[:, None] * (1.0 - r) * score)
    torch.testing.assert_close(p @ pq, task.gradient("kl_pq"), rtol=1e-9, atol=1e-12)


def test_trls_penalty_beside_an_engine_of_its_own():
    """``per_token_kl * exp(logps - old_logps)`` of TRL 1.16, whatever vLLM's probabilities were."""
    task = sequence(model="table", prompts=1, lag=0.2, mismatch=0.1).gradient_task()
    samples, p = every_sequence(task, 0)
    theta = task.theta().requires_grad_()
    rollouts = task.rollouts(theta, samples)
    x = rollouts.log_p - rollouts.log_q
    loss = ((x.exp() - x - 1) * torch.exp(rollouts.log_q - rollouts.log_old) * rollouts.mask).sum(
        -1
    )
    (expected,) = torch.autograd.grad(p @ loss, theta, retain_graph=True)
    old, mu = exact.all_moments(
        [gradients.get(name) for name in ("k3_old_ratio_loss", "k3_ratio_loss")], task
    )
    torch.testing.assert_close(old.mean, expected, rtol=1e-9, atol=1e-12)
    assert float((old.mean - mu.mean).norm()) > 1e-3


@pytest.mark.parametrize("name", OBJECTIVES)
def test_whole_objectives_at_their_optimum_by_backward_passes(name):
    """TRL 1.16's loss written out, with the best policy's reward and the mean of the others.

    ``exp(sum(old - sampler))`` up to 3 multiplies the policy's term, and the penalty where it is on
    both.
    """
    task = sequence(model="table", prompts=1, lag=0.2, mismatch=0.3).gradient_task()
    samples, p = every_sequence(task, 0)
    theta = task.theta().requires_grad_()
    rollouts = task.rollouts(theta, samples)
    reward = (rollouts.log_q - rollouts.log_p).sum(-1).detach()
    whole = (rollouts.log_old - rollouts.log_mu).sum(-1).exp()
    mask = torch.where(whole <= 3.0, whole, 0.0)
    assert 0 < int((mask == 0.0).sum()) < len(mask)
    on_policy = torch.ones_like(mask) if name == "no_mask" else mask
    on_penalty = mask if name == "mask_on_both" else torch.ones_like(mask)
    coefficient = torch.exp(rollouts.log_q - rollouts.log_old) * rollouts.mask
    x = rollouts.log_p - rollouts.log_q
    advantage = reward - p @ reward
    loss = -on_policy * advantage * coefficient.sum(-1)
    loss = loss + on_penalty * ((x.exp() - x - 1.0) * coefficient).sum(-1)
    (expected,) = torch.autograd.grad(p @ loss, theta)
    found = bias_at_optimum(OBJECTIVES[name], task)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_at_the_optimum_the_same_weight_on_both_terms_cancels_whatever_it_is():
    """K1 in the reward with the policy's own weight: 0, however wrong the weight."""
    task = sequence(model="gru", lag=0.2, mismatch=0.1).gradient_task()
    for weight in ("none", "sequence_ratio", "masked_ratio:0.8-1.2@old:mu", "sequence_mask:1.1"):
        both = f"k1/reward/token/{weight}"
        assert float(bias_at_optimum(Objective(both, both, ""), task).norm()) < 1e-14
    right = Objective("k1_reward_sequence_ratio", "full_with_score_decision_ratio", "")
    assert float(bias_at_optimum(right, task).norm()) < 1e-12


def test_normalised_samples_agree_with_enumeration():
    task = sequence(model="table", prompts=1, lag=0.3, mismatch=0.1).gradient_task()
    names = (
        "k1_reward_normalised_sequence_ratio",
        "k1_reward_normalised_token_ratio",
        "full_with_score_decision_ratio_leave_one_out",
        "k1_reward_opsm",
        "k1_reward_dppo_tv",
    )
    chosen = [gradients.get(name) for name in names]
    drawn = sampled.sample(chosen, task, streams.generator(4, "test"), batches=80, size=32, group=4)
    for truth, found in zip(exact.all_moments(chosen, task, group=4), drawn, strict=True):
        distance = found.squared_distance(truth.mean)
        assert distance.value <= distance.furthest + 1e-24
        assert abs(found.variance - truth.variance) <= 5 * found.variance_se


def test_a_weight_that_is_not_1_on_policy_has_no_closed_form_here():
    task = pairs.get("gaussian")(p={"mean": 0.5, "std": 1.2}).gradient_task()
    assert closed.moments(gradients.get("k1/reward/token/masked_ratio:0.5-5"), task) is not None
    one_sided = ("ppo_ratio:0.5-0.9", "ppo_ratio:1.1-1.5", "gmpo:1.2-1.5", "gmpo:0.5-0.8")
    for spec in ("masked_ratio:2-5", "truncated_ratio:0.5", "sequence_mask:0.9", *one_sided):
        assert closed.moments(gradients.get(f"k1/reward/token/{spec}"), task) is None
    assert closed.moments(gradients.get("k2_sampler_loss"), task) is None


def test_on_policy_weights_that_are_1_change_no_moment():
    task = sequence(model="table", horizon=2, prompts=2).gradient_task()
    chosen = [gradients.get(each) for each in (*gradients.names(), "k1/reward/token/gmpo:1.2-1.5")]
    computed = [each.computed(on_policy=True) for each in chosen]
    assert len(set(computed)) < 0.6 * len(chosen)
    for each, same in zip(chosen, computed, strict=True):
        own, found = (exact.moments(one, task, group=4) for one in (each, same))
        assert torch.allclose(found.mean, own.mean, rtol=1e-12, atol=1e-15), each.name
        assert found.variance == pytest.approx(own.variance, rel=1e-12), each.name
        assert found.total_variance == pytest.approx(own.total_variance, rel=1e-12), each.name
        assert each.computed(on_policy=False).spec == each.spec


@pytest.mark.parametrize(
    "spec",
    [
        "k1/reward/token/masked_ratio:0.5-5/none",
        "k1/reward/sequence/sequence_mask:3/none",
        "k3/loss/token/geometric_ratio:differentiated/none",
        "k1/reward_to_go/token/truncated_ratio*seq_mean_k1:0.9-1.1/none",
        "k1/reward_to_go/token/none/token_kl/gamma=0.5",
        "k2/loss/token/none/none/reference=sampler",
        "k1/reward/token/sequence_ratio:normalised/none",
        "k1/reward/token/truncated_ratio:5/none",
    ],
)
def test_specs_are_read_as_they_are_written(spec):
    assert gradients.get(spec).spec == spec
    assert gradients.get(gradients.get(spec).spec).spec == spec


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "k1/reward/token/maskd_ratio:0.5-5",
            "unknown correction 'maskd_ratio'; did you mean 'masked_ratio'?",
        ),
        (
            "k3/loss/sequence/masked_ratio:0.5-5*token_ratio",
            "one term for the whole sequence cannot have a masked_ratio",
        ),
        (
            "k3/loss/token/opsm:0.1",
            "takes an advantage of the sequence's own, which only a reward has",
        ),
        ("k1/reward/token/opsm:0.1/leave_one_out", "takes an advantage of the sequence's own"),
        (
            "k1/reward/token/decision_ratio",
            "is of the placements reward_to_go, full and full_with_score",
        ),
        ("k1/reward_to_go/token/decision_ratio*tv:0.2", "decision_ratio stands alone"),
        ("full_kl/full_with_score/token/decision_ratio/batch_mean", "only a reward has a baseline"),
        ("k3/loss/token/none:normalised", "what is normalised is a detached weight"),
        (
            "k1/reward/token/token_ratio:normalised/batch_mean",
            "normalised weights and a baseline of the same group",
        ),
        ("k1/reward/token/none/none/gamma=0.5", "gamma is of reward_to_go"),
        ("k1/reward_to_go/token/none/none/gamma=2", "gamma is from 0 to 1, not 2"),
        ("k1/reward_to_go/token/none/none/gamma=x", "expected a number after gamma=, got 'x'"),
        ("k1/reward_to_go/gamma=0/token", "expected estimator/placement/level/correction/baseline"),
        ("k1/reward_to_go/gama=0", "unknown key of a combination 'gama'; did you mean 'gamma'?"),
        ("k2/loss/reference=smpler", "unknown reference 'smpler'; did you mean 'sampler'?"),
        ("full_kl/full/reference=sampler", "the exact KL is that to the reference"),
        ("k1/reward/gamma=0/gamma=0", "gamma is given twice"),
    ],
)
def test_what_does_not_go_together_is_refused(spec, message):
    with pytest.raises(ConfigError) as error:
        gradients.get(spec)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_on_policy_every_weight_with_1_inside_its_bounds_is_1():
    task = sequence().gradient_task()
    plain = exact.moments(gradients.get("k1/reward_to_go"), task)
    for kind in KINDS:
        found = exact.moments(gradients.get(f"k1/reward_to_go/token/{kind}"), task)
        torch.testing.assert_close(found.mean, plain.mean, rtol=1e-12, atol=1e-14)
        assert math.isclose(found.variance, plain.variance, rel_tol=1e-12)


def test_every_correction_has_a_name_and_a_claim():
    """What is claimed is held against enumeration by the tests of claims, whoever samples."""
    claimed = {
        factor.kind
        for name in gradients.names()
        for factor in gradients.get(name).factors
        if gradients.get(name).claim
    }
    assert claimed == set(KINDS)


def test_rejections_come_after_weights_are_divided_by_their_mean():
    """Verl's order, by all groups of two of one table policy."""
    task = sequence(model="table", horizon=2, prompts=1, lag=0.3).gradient_task()
    samples, p = every_sequence(task, 0)
    theta = task.theta().requires_grad_()
    rollouts = task.rollouts(theta, samples)
    apart = (rollouts.log_q - rollouts.log_mu).detach()
    weight, length = apart.exp().clamp(max=1.2), rollouts.mask.sum(-1)
    kept = ((apart.sum(-1) / length).abs() <= math.log(1.2)).to(p.dtype)
    assert 0 < int(kept.sum()) < len(kept)
    to_go = (rollouts.log_q - rollouts.log_p).detach().flip(-1).cumsum(-1).flip(-1)
    each = of_each((kept[:, None] * weight * to_go * rollouts.log_q * rollouts.mask).sum(-1), theta)
    total = (weight * rollouts.mask).sum(-1)
    pair = (length[:, None] + length) / (total[:, None] + total)
    mean = 0.5 * torch.einsum("i,j,ij,ijk->k", p, p, pair, each[:, None] + each)
    spec = f"k1/reward_to_go/token/truncated_ratio:1.2*seq_mean_k1:{1 / 1.2}-1.2:normalised"
    found = exact.moments(gradients.get(spec), task, 2)
    torch.testing.assert_close(found.mean, mean, rtol=1e-9, atol=1e-12)
    square = torch.einsum("i,j,ij,ijk->", p, p, pair**2, (each[:, None] + each) ** 2) / 4.0
    assert found.variance == pytest.approx(2.0 * float(square - mean @ mean), rel=1e-8)


def test_the_mean_over_the_tokens_of_a_batch_is_that_of_tinker():
    """``avg_logp_diff - logprob_diffs`` as advantages, then their discounted sums, as the cookbook
    has it.
    """
    task = sequence(model="table", prompts=1, lag=0.2).gradient_task()
    samples, _ = every_sequence(task, 0)
    theta = task.theta().requires_grad_()
    rollouts = task.rollouts(theta, samples)
    diff = (rollouts.log_q - rollouts.log_p).detach() * rollouts.mask
    advantage = (diff.sum() / rollouts.mask.sum() - diff) * rollouts.mask
    ratio = (rollouts.log_q - rollouts.log_mu).exp()
    for gamma in (0.0, 0.5):
        later = advantage.clone()
        for t in reversed(range(later.shape[1] - 1)):
            later[:, t] += gamma * later[:, t + 1]
        spec = f"k1/reward_to_go/token/token_ratio/token_mean/gamma={gamma}"
        found = of_each(surrogate(gradients.get(spec), rollouts), theta)
        expected = of_each((-later * ratio * rollouts.mask).sum(-1), theta)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
    assert gradients.get(TINKER).spec == trainers.parse("tinker").combination


def test_the_mean_over_tokens_is_no_baseline_of_others():
    """In sequences of one token it is the group's mean, and shrinks by ``1 - 1/n``."""
    task = sequence(model="table", horizon=1, lag=0.2).gradient_task()
    specs = ("k1_own_token_ratio", TINKER)
    plain, less = exact.all_moments([gradients.get(each) for each in specs], task, group=4)
    torch.testing.assert_close(less.mean, 0.75 * plain.mean, rtol=1e-9, atol=1e-13)
    with pytest.raises(ConfigError, match="token_mean is of reward_to_go"):
        gradients.get("k1/reward/token/none/token_mean")


def test_the_mean_over_tokens_of_samples_agrees_with_enumeration():
    task = sequence(model="table", prompts=1, lag=0.2).gradient_task()
    chosen = [gradients.get(TINKER)]
    (truth,) = exact.all_moments(chosen, task, group=4)
    (found,) = sampled.sample(
        chosen, task, streams.generator(5, "test"), batches=80, size=32, group=4
    )
    assert found.squared_distance(truth.mean).value <= found.squared_distance(truth.mean).furthest
    assert abs(found.variance - truth.variance) <= 5 * found.variance_se


@pytest.mark.parametrize("lag", [0.0, 0.3])
@pytest.mark.parametrize("model", ["table", "gru"])
def test_rpgs_four_surrogates_are_unbiased_in_their_directions_whoever_samples(model, lag):
    task = sequence(model=model, lag=lag).gradient_task()
    for direction in ("qp", "pq"):
        target = task.gradient(f"kl_{direction}")
        for name in (f"kl_{direction}_ratio_loss", f"ukl_{direction}_ratio_loss"):
            combination = gradients.get(name)
            found = exact.moments(combination, task)
            assert float((found.mean - target).norm() / target.norm()) < 1e-12, name
            mean, variance = one_by_one(combination, task)
            torch.testing.assert_close(found.mean, mean, rtol=1e-9, atol=1e-11, msg=name)
            assert found.variance == pytest.approx(variance, rel=1e-9), name


def test_the_normalised_kl_of_the_other_direction_has_the_references_score():
    """``-(p/mu) grad log q``, sample by sample (RPG, table 1, FKL), and no 1 beside it; without
    the ratio's own gradient it is biased.
    """
    task = sequence(model="table", prompts=1, lag=0.2).gradient_task()
    samples, p = every_sequence(task, 0)
    theta = task.theta().requires_grad_()
    rollouts = task.rollouts(theta, samples)
    score = of_each(rollouts.log_q.sum(-1), theta)
    over_sampler = (rollouts.log_p - rollouts.log_mu).sum(-1).exp()
    found = of_each(surrogate(gradients.get("kl_pq_ratio_loss"), rollouts), theta)
    torch.testing.assert_close(found, -over_sampler[:, None] * score, rtol=1e-10, atol=1e-13)
    detached = exact.moments(gradients.get("k_lambda_pq:0/loss/sequence/sequence_ratio"), task).mean
    assert float((detached - p @ found).norm() / (p @ found).norm()) > 0.1


@pytest.mark.parametrize("block", [1, 2, 3, 5])
def test_ratios_in_blocks_lie_between_those_of_prefixes_and_of_sequences(block):
    """Unbiased at every size of a block, since later ratios have the mean 1; noisier the larger."""
    task = sequence(model="gru", horizon=4, lag=0.3).gradient_task()
    target = task.gradient("kl_qp")
    specs = [
        f"k1/loss/token/{ratio}:differentiated"
        for ratio in ("prefix_ratio", f"block_ratio:{block}", "sequence_ratio")
    ]
    first, found, last = exact.all_moments([gradients.get(spec) for spec in specs], task)
    assert float((found.mean - target).norm() / target.norm()) < 1e-12
    assert first.variance <= found.variance * (1 + 1e-12)
    assert found.variance <= last.variance * (1 + 1e-12)
    mean, variance = one_by_one(gradients.get(specs[1]), task)
    torch.testing.assert_close(found.mean, mean, rtol=1e-9, atol=1e-11)
    assert found.variance == pytest.approx(variance, rel=1e-9)
    assert (found.variance == pytest.approx(first.variance, rel=1e-12)) == (block == 1)
    assert (found.variance == pytest.approx(last.variance, rel=1e-12)) == (block >= 4)


@pytest.mark.parametrize("cap", [0.5, 1.0, 1.5, 2.0])
def test_what_cutting_off_the_ratio_of_a_term_costs_is_within_its_bounds(cap):
    """Against sums over sequences, written out with backward passes."""
    task = sequence(model="table", horizon=3, prompts=1, lag=0.3, mismatch=0.1).gradient_task()
    samples, p = every_sequence(task, 0)
    theta = task.theta().requires_grad_()
    rollouts = task.rollouts(theta, samples)
    ratio = (rollouts.log_q - rollouts.log_mu).cumsum(-1).exp().detach()
    u = (rollouts.log_q - rollouts.log_p).detach()
    loss, bound = torch.zeros(len(p), dtype=p.dtype), 0.0
    for t in range(u.shape[1]):
        led = rollouts.log_q[:, : t + 1].sum(-1)
        excess = (ratio[:, t] - cap).clamp(min=0.0) * u[:, t] * rollouts.mask[:, t]
        loss = loss - excess * led
        lengths = of_each(led, theta).norm(dim=-1)
        bound += float(p @ (excess.abs() * lengths))
    bias = (p[:, None] * of_each(loss, theta)).sum(0).norm()
    found = truncation(task, cap)
    assert found.bias == pytest.approx(float(bias), rel=1e-9)
    assert found.triangle == pytest.approx(bound, rel=1e-9)
    assert 0.0 < found.bias <= found.triangle <= found.moments


def test_a_cap_that_no_ratio_reaches_costs_nothing():
    task = sequence(model="gru", horizon=3, lag=0.3).gradient_task()
    nothing = truncation(task, 1e6)
    assert nothing.bias < 1e-12
    assert nothing.triangle == 0.0
    assert nothing.moments > 0.0
    for place in ("k1/reward_to_go/token", "full_kl/full_with_score/token"):
        specs = [f"{place}/truncated_decision_ratio:{cap}" for cap in ("1", "1.5", "inf")]
        specs.append(f"{place}/decision_ratio")
        low, middle, high, plain = exact.all_moments(list(map(gradients.get, specs)), task)
        torch.testing.assert_close(high.mean, plain.mean, rtol=1e-9, atol=1e-12)
        assert high.variance == pytest.approx(plain.variance, rel=1e-9)
        for spec, found in zip(specs[:2], (low, middle), strict=True):
            mean, variance = one_by_one(gradients.get(spec), task)
            torch.testing.assert_close(found.mean, mean, rtol=1e-9, atol=1e-11)
            assert found.variance == pytest.approx(variance, rel=1e-9)
    with pytest.raises(ConfigError, match="has no baseline"):
        gradients.get("k1/reward_to_go/token/truncated_decision_ratio:2/token_kl")
