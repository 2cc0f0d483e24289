"""Every combination's expected gradient and variance, by three ways that share little: enumeration, brute force, samples."""

import itertools
import math

import numpy as np
import pytest
import torch

from klbench import gradients, pairs, streams
from klbench.gradients import Baseline, Correction, Level, Placement, closed, exact, grid, sampled
from klbench.gradients.surrogate import ratio, surrogate
from klbench.pairs._sequence_gradient import Samples
from klbench.types import ConfigError, Rollouts

CORRECTIONS = ("none", "token_ratio", "prefix_ratio", "sequence_ratio", "truncated_ratio")
BASELINES = ("none", "batch_mean", "leave_one_out", "token_kl")
GRID = tuple(grid(("k1", "k2", "k3"), Placement.__args__, Level.__args__, CORRECTIONS, BASELINES))
NAMED = tuple(gradients.get(name) for name in gradients.names())
CAP_THAT_BITES = 0.3  # nats of lag: some ratios exceed 2


def sequence(**fields):
    return pairs.get("sequence")(**{"vocabulary": 2, "horizon": 3, "prompts": 2, "kl": 0.3, **fields})


def every_sequence(task, prompt):
    """All that can follow one prompt, in the form in which a trainer gets its samples."""
    node, token, mask = task.tree.paths
    sides = (torch.where(mask, log_probs[prompt][node, token], 0.0) for log_probs in (task._log_p, task._log_mu))
    samples = Samples(prompt, node, torch.where(mask, token, 0), mask, *sides)
    return samples, samples.log_mu.sum(-1).exp()


def take(samples, index):
    return Samples(samples.prompt, *(each[index] for each in samples[1:]))


def gradients_of(losses, theta):
    """The gradient of each loss, ``(n, parameters)``."""
    if not losses.requires_grad:
        return torch.zeros(len(losses), len(theta), dtype=theta.dtype)
    return torch.autograd.grad(losses, theta, torch.eye(len(losses), dtype=theta.dtype), is_grads_batched=True)[0]


def one_by_one(combination, task):
    """Mean gradient and variance given the prompt, by a backward pass for each sequence that there is."""
    means, variances = [], []
    for prompt in range(task.prompts):
        samples, p = every_sequence(task, prompt)
        theta = task.theta().requires_grad_()
        each = gradients_of(surrogate(combination, task.rollouts(theta, samples)), theta)
        means.append(p @ each)
        variances.append(float(p @ (each**2).sum(-1)) - float(means[-1] @ means[-1]))
    return torch.stack(means).mean(0), sum(variances) / len(variances)


@pytest.mark.parametrize("lag", [0.0, CAP_THAT_BITES])
@pytest.mark.parametrize("model", ["table", "gru"])
def test_enumeration_is_the_sum_over_backward_passes(model, lag):
    task = sequence(model=model, horizon=2, lag=lag).gradient_task()
    some = [each for each in (*NAMED, *GRID[::2]) if each.baseline in ("none", "token_kl")]
    assert {each.placement for each in some} == set(Placement.__args__)
    for combination, found in zip(some, exact.all_moments(some, task), strict=True):
        mean, variance = one_by_one(combination, task)
        torch.testing.assert_close(found.mean, mean, rtol=1e-9, atol=1e-11, msg=combination.spec)
        assert found.variance == pytest.approx(variance, rel=1e-9, abs=1e-11), combination.spec


@pytest.mark.parametrize("lag", [0.0, CAP_THAT_BITES])
@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("spec", [
    "k1/reward/token/none/leave_one_out", "k3/reward/token/none/batch_mean", "k2/reward_to_go/token/none/leave_one_out",
    "k1/reward_to_go/token/token_ratio/batch_mean", "k3/reward/sequence/sequence_ratio/leave_one_out",
])  # fmt: skip
def test_a_group_is_the_sum_over_all_groups(spec, n, lag):
    task = sequence(model="transformer", horizon=2, prompts=1, lag=lag).gradient_task()
    combination = gradients.get(spec)
    samples, p = every_sequence(task, 0)
    groups = torch.tensor(list(itertools.product(range(len(p)), repeat=n)))
    weight = p[groups].prod(-1)
    theta = task.theta().requires_grad_()
    losses = surrogate(combination, task.rollouts(theta, take(samples, groups.ravel())), n)
    each = gradients_of(losses.reshape(-1, n).mean(-1), theta)
    mean = weight @ each
    variance = n * (float(weight @ (each**2).sum(-1)) - float(mean @ mean))
    found = exact.moments(combination, task, group=n)
    torch.testing.assert_close(found.mean, mean, rtol=1e-9, atol=1e-12)
    assert found.variance == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize("lag", [0.0, CAP_THAT_BITES])
def test_samples_agree_with_enumeration(lag):
    task = sequence(model="table", horizon=2, prompts=1, lag=lag).gradient_task()
    everything = list({each.spec: each for each in (*NAMED, *GRID)}.values())
    truths = exact.all_moments(everything, task, group=4)
    drawn = sampled.sample(everything, task, streams.generator(3, "test"), batches=60, size=32, group=4)
    for combination, truth, found in zip(everything, truths, drawn, strict=True):
        distance = found.squared_distance(truth.mean)
        assert distance.value <= distance.furthest + 1e-24, combination.spec
        assert abs(found.variance - truth.variance) <= 5 * found.variance_se + 1e-18, combination.spec


def distances(task, mean):
    """Of an expected gradient from each of those that can be claimed, in units of the one that is wanted."""
    qp, pq = task.gradient("kl_qp"), task.gradient("kl_pq")
    exactly = {"grad KL(q‖p)": qp, "grad KL(p‖q)": pq, "grad KL(q‖p) - grad KL(p‖q)": qp - pq, "0": 0 * qp}
    return {name: float((mean - each).norm() / qp.norm()) for name, each in exactly.items()}


@pytest.mark.parametrize("model", ["table", "gru", "transformer"])
def test_claims(model):
    task = sequence(model=model).gradient_task()
    for combination, found in zip(NAMED, exact.all_moments(NAMED, task), strict=True):
        assert combination.claim is not None
        off = distances(task, found.mean)
        if combination.claim == "biased":
            assert min(off.values()) > 1e-3, combination.name
        else:
            assert off[combination.claim] < 1e-10, combination.name


@pytest.mark.parametrize("behind", ["path", "random"])
def test_claims_on_stale_samples_hold_where_they_are_said_to_and_nowhere_else(behind):
    task = sequence(lag=0.2, behind=behind).gradient_task()
    for combination, found in zip(NAMED, exact.all_moments(NAMED, task), strict=True):
        off = distances(task, found.mean)
        if combination.claimed(tokens=3, stale=True):
            assert off[combination.claim] < 1e-10, combination.name
        elif combination.claim != "biased":
            assert off[combination.claim] > 1e-3, combination.name


@pytest.mark.parametrize("combination", [each for each in NAMED if each.one_token], ids=lambda c: c.name)
def test_claims_for_one_token(combination):
    task = pairs.get("categorical")(random={"size": 5, "kl": 0.7}).gradient_task()
    assert distances(task, exact.moments(combination, task).mean)[combination.one_token] < 1e-10


def test_k1_in_the_reward_cancels_its_own_noise_at_the_optimum():
    """There reward - KL is constant, so that nothing is left but what the baseline removes."""
    task = sequence().gradient_task()
    scale = float(task.gradient("kl_qp").norm())
    total = {
        name: exact.moments(gradients.get(name), task).total_variance
        for name in ("k1_reward", "k2_sequence_loss", "full_with_score")
    }
    assert total["k1_reward"] < 1e-20 * scale**2
    assert min(total["k2_sequence_loss"], total["full_with_score"]) > 1e-2 * scale**2


def test_the_total_at_the_optimum_by_backward_passes():
    """The reward's gradient, -(log q/p - its mean) times the score, added to the penalty's."""
    task = sequence(model="transformer", prompts=1).gradient_task()
    for name in ("k1_loss", "k2_sequence_loss", "k3_loss", "full_loss", "k3_sequence_ratio_loss"):
        combination = gradients.get(name)
        samples, p = every_sequence(task, 0)
        theta = task.theta().requires_grad_()
        rollouts = task.rollouts(theta, samples)
        u = (rollouts.log_q - rollouts.log_p).sum(-1).detach()
        found = gradients_of(surrogate(combination, rollouts) - (u - p @ u) * rollouts.log_q.sum(-1), theta)
        mean = p @ found
        variance = float(p @ (found**2).sum(-1)) - float(mean @ mean)
        assert exact.moments(combination, task).total_variance == pytest.approx(variance, rel=1e-9), name


GAUSSIAN = {"q": {"mean": 0.2, "std": 0.9}, "p": {"mean": -0.4, "std": 1.1}}
EXPONENTIAL = {"q": {"rate": 1.3}, "p": {"rate": 0.9}}


@pytest.mark.parametrize(("kind", "sides"), [("gaussian", GAUSSIAN), ("exponential", EXPONENTIAL)])
@pytest.mark.parametrize("spec", [
    "k1/loss", "k2/loss", "k3/loss", "k2/reward", "k3/reward", "k3/loss_and_reward", "k3@k2/straight_through",
    "k1/reward/token/none/token_kl", "k3/loss/token/token_ratio:differentiated", "k_lambda:0.3/loss",
])  # fmt: skip
def test_closed_forms_against_quadrature(kind, sides, spec):
    task = pairs.get(kind)(**sides).gradient_task()
    combination = gradients.get(spec)
    found = closed.moments(combination, task)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    edges = np.linspace(-14.0, 14.0, 29) if kind == "gaussian" else np.concatenate([[0.0], np.geomspace(0.1, 90.0, 24)])
    half = np.diff(edges)[:, None] / 2
    x = torch.from_numpy((edges[:-1, None] + half * (nodes + 1)).reshape(-1, 1))
    theta = task.theta().requires_grad_()
    rollouts = task.rollouts(theta, x)
    p = torch.from_numpy((half * weights).ravel()) * rollouts.log_mu[:, 0].exp()
    each = gradients_of(surrogate(combination, rollouts), theta)
    mean = p @ each
    torch.testing.assert_close(found.mean, mean, rtol=1e-9, atol=1e-11)
    assert found.variance == pytest.approx(float(p @ (each**2).sum(-1)) - float(mean @ mean), rel=1e-9, abs=1e-11)


def test_where_the_second_moment_diverges_the_variance_is_infinite():
    task = pairs.get("gaussian")(q={"std": 1.0}, p={"std": 1.5}).gradient_task()
    assert closed.moments(gradients.get("k3_loss"), task).variance == math.inf
    assert closed.moments(gradients.get("k1_reward"), task).variance < math.inf


def test_a_pure_shift_of_gaussians_cannot_tell_the_gradients_apart():
    task = pairs.get("gaussian")(q={"mean": 0.0}, p={"mean": 1.0}).gradient_task()
    difference = task.gradient("kl_qp") - task.gradient("kl_pq")
    assert abs(float(difference[0])) < 1e-15
    assert abs(float(difference[1])) > 0.1  # the scale, which a location family hides


@pytest.mark.parametrize(("spec", "message"), [
    ("k3/los", "unknown placement 'los'; did you mean 'loss'?"),
    ("k4/loss", "unknown estimator 'k4'"),
    ("k3/loss/word", "unknown level 'word'"),
    ("k3/loss/token/tokn_ratio", "unknown correction 'tokn_ratio'; did you mean 'token_ratio'?"),
    ("k3/loss/token/none/leave_one_out", "only a reward has a baseline"),
    ("k3/reward_to_go/sequence", "reward_to_go is of level token"),
    ("k3/full", "full_kl and the placements full and full_with_score go together"),
    ("full_kl/loss", "full_kl and the placements full and full_with_score go together"),
    ("k3/straight_through", "straight_through needs gradient_of"),
    ("k3/reward/token/token_ratio:differentiated", "a score's weight is detached"),
    ("k3/loss/token/none:differentiated", "there is no ratio to differentiate"),
    ("k3/loss/sequence/token_ratio", "one term for the whole sequence cannot have a token_ratio"),
    ("k3/loss/token:mean/none/leave_one_out", "only a reward has a baseline"),
    ("k3/loss/sequence:mean", "only a sum over tokens can be divided by the length"),
    ("k3/reward/token:mean", "only what stands in the loss is divided by the length"),
    ("k3/loss/token/truncated_ratio:0", "cut off at a positive number, not at 0"),
    ("k3/loss/token/token_ratio:3", "only truncated_ratio takes a number"),
    ("k3/loss/token/truncated_ratio:x", "expected a number after truncated_ratio, got 'x'"),
    ("k_fitted/loss", "k_fitted is no mean of terms of the log-ratio alone"),
    ("k3", "unknown combination 'k3'"),
    ("k3/loss/token/none/none/none", "expected estimator/placement/level/correction/baseline"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(spec, message):
    with pytest.raises(ConfigError, match=r".") as error:
        gradients.get(spec)
    assert message in str(error.value)


def test_names_aliases_and_specs_find_the_same():
    assert gradients.get("trl_grpo") is gradients.get("k3_loss")
    for combination in NAMED:
        spelled = gradients.get(combination.spec)
        assert spelled.spec == combination.spec
        for alias in combination.aliases:
            assert gradients.get(alias) is combination


def test_length_mean_divides_by_the_tokens_that_count():
    task = sequence(prompts=1, model="table").gradient_task()
    samples, _ = every_sequence(task, 0)
    rollouts = task.rollouts(task.theta(), samples)
    summed, mean = (surrogate(gradients.get(spec), rollouts) for spec in ("k3/loss", "k3/loss/token:mean"))
    torch.testing.assert_close(mean * rollouts.mask.sum(-1), summed)
    assert rollouts.mask.sum(-1).unique().tolist() == [1, 2, 3]


@pytest.mark.parametrize("filler", [math.nan, math.inf, -math.inf, 1e308])
def test_what_stands_where_the_mask_is_false_changes_nothing(filler):
    """Losses and their gradients are those of the sequences without any padding."""
    stream = torch.Generator().manual_seed(3)
    plain = [-torch.rand(4, 2, generator=stream, dtype=torch.float64) for _ in range(4)]
    mask = torch.tensor([[True, True, False, False]] * 4)

    def differentiated(combination, columns, mask):
        log_q, kl = (columns[i].clone().requires_grad_() for i in (0, 3))
        found = surrogate(combination, Rollouts(log_q, columns[1], columns[2], kl, mask), 2)
        grads = (torch.zeros_like(log_q), torch.zeros_like(kl))
        if found.requires_grad:
            grads = torch.autograd.grad(found.sum(), (log_q, kl), allow_unused=True, materialize_grads=True)
        return found.detach(), *grads

    padded = [torch.cat([each, torch.full_like(each, filler)], dim=1) for each in plain]
    for combination in (*GRID, *NAMED):
        expected = differentiated(combination, plain, mask[:, :2])
        losses, *grads = differentiated(combination, padded, mask)
        torch.testing.assert_close(losses, expected[0], rtol=1e-13, atol=1e-13)
        for found, exact_grad in zip(grads, expected[1:], strict=True):
            torch.testing.assert_close(found[:, :2], exact_grad, rtol=1e-13, atol=1e-13)
            assert not found[:, 2:].any()


def test_a_weight_that_overflows_after_the_end_is_not_summed():
    """The weight of the prefix is exp(800) = inf at its one token and at the padding after it, whose term is 0."""
    zero, mask = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[True, False]])
    rollouts = Rollouts(zero, zero - 0.5, torch.tensor([[-800.0, 0.0]], dtype=torch.float64), zero, mask)
    assert surrogate(gradients.get("k1/loss/token/prefix_ratio"), rollouts).tolist() == [math.inf]


@pytest.mark.parametrize("filler", [math.nan, math.inf])
def test_scores_select_what_counts(filler):
    task = sequence(prompts=1, model="table").gradient_task()
    for each in task.atoms():
        token, mask = torch.ones_like(each.rollouts.log_q), each.rollouts.mask
        assert not mask.all()
        bad = torch.where(mask, token, filler)
        torch.testing.assert_close(each.scores.pull(bad, bad), each.scores.pull(token * mask, token * mask))


def test_where_it_is_cut_off():
    task = sequence(prompts=1, model="table", lag=0.3).gradient_task()
    samples, _ = every_sequence(task, 0)
    rollouts = task.rollouts(task.theta(), samples)
    free, cut = (ratio(gradients.get(f"k1/loss/sequence/{c}"), rollouts) for c in ("sequence_ratio", "truncated_ratio:1.5"))
    torch.testing.assert_close(cut, free.clamp(max=1.5))
    assert float(free.max()) > 1.5


def test_leave_one_out_needs_two():
    task = sequence(model="transformer", prompts=1).gradient_task()
    samples, _ = every_sequence(task, 0)
    with pytest.raises(ValueError, match="at least 2 sequences in a group, got 1"):
        surrogate(gradients.get("trl_rloo"), task.rollouts(task.theta(), take(samples, [0])))
    with pytest.raises(ValueError, match="3 sequences do not make groups of 2"):
        surrogate(gradients.get("trl_rloo"), task.rollouts(task.theta(), take(samples, [0, 1, 2])), 2)


def test_the_grid_covers_every_placement_correction_and_baseline():
    assert {each.placement for each in GRID} == set(Placement.__args__)
    assert {each.correction for each in GRID} == set(Correction.__args__)
    assert {each.baseline for each in GRID} == set(Baseline.__args__)
    assert len({each.spec for each in GRID}) == len(GRID)
