"""Every combination's expected gradient and variance, by three ways that share little.

Enumeration, brute force, samples.
"""

import itertools
import math
import sys

import mpmath
import numpy as np
import pytest
import torch

from klbench import gradients, pairs, streams
from klbench.gradients import Baseline, Level, Placement, closed, exact, grid, sampled
from klbench.gradients.surrogate import ratio, surrogate
from klbench.pairs._sequence_gradient import Samples
from klbench.types import ConfigError, Rollouts

CORRECTIONS = ("none", "token_ratio", "prefix_ratio", "sequence_ratio", "truncated_ratio")
BASELINES = ("none", "batch_mean", "leave_one_out", "token_kl")
GRID = tuple(grid(("k1", "k2", "k3"), Placement.__args__, Level.__args__, CORRECTIONS, BASELINES))
NAMED = tuple(gradients.get(name) for name in gradients.names())
CAP_THAT_BITES = 0.3  # nats of lag: some ratios exceed 2


def sequence(**fields):
    return pairs.get("sequence")(
        **{"vocabulary": 2, "horizon": 3, "prompts": 2, "kl": 0.3, **fields}
    )


def every_sequence(task, prompt):
    """All that can follow one prompt, in the form in which a trainer gets its samples."""
    node, token, mask = task.tree.paths
    sides = (
        torch.where(mask, log_probs[prompt][node, token], 0.0)
        for log_probs in (task._log_p, task._log_mu, task._log_old)
    )
    samples = Samples(prompt, node, torch.where(mask, token, 0), mask, *sides)
    return samples, samples.log_mu.sum(-1).exp()


def take(samples, index):
    return Samples(samples.prompt, *(each[index] for each in samples[1:]))


def gradients_of(losses, theta):
    """The gradient of each loss, ``(n, parameters)``."""
    if not losses.requires_grad:
        return torch.zeros(len(losses), len(theta), dtype=theta.dtype)
    return torch.autograd.grad(
        losses, theta, torch.eye(len(losses), dtype=theta.dtype), is_grads_batched=True
    )[0]


def one_by_one(combination, task):
    """Mean gradient and variance given the prompt, by a backward pass for each sequence that
    there is.
    """
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
    some = [
        each
        for each in (*NAMED, *GRID[::2])
        if each.baseline in ("none", "token_kl") and not each.normalised
    ]
    assert {each.placement for each in some} == set(Placement.__args__)
    for combination, found in zip(some, exact.all_moments(some, task), strict=True):
        mean, variance = one_by_one(combination, task)
        torch.testing.assert_close(found.mean, mean, rtol=1e-9, atol=1e-11, msg=combination.spec)
        assert found.variance == pytest.approx(variance, rel=1e-9, abs=1e-11), combination.spec


@pytest.mark.parametrize("lag", [0.0, CAP_THAT_BITES])
@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize(
    "spec",
    [
        "k1/reward/token/none/leave_one_out",
        "k3/reward/token/none/batch_mean",
        "k2/reward_to_go/token/none/leave_one_out",
        "k1/reward_to_go/token/token_ratio/batch_mean",
        "k3/reward/sequence/sequence_ratio/leave_one_out",
        "k1/reward_to_go/token/decision_ratio/leave_one_out",
        "k1/reward_to_go/token/masked_ratio:0.9-1.1/batch_mean/gamma=0.3",
        "full_kl/full_with_score/token/decision_ratio/leave_one_out",
        # Divided by their mean over the group.
        "k1/reward/token/sequence_ratio:normalised",
        "k1/reward_to_go/token/token_ratio:normalised/token_kl",
        "k2/loss/token/masked_ratio:0.7-1.1:normalised",
        "k1/reward/sequence/sequence_mask:1.1:normalised",
        "full_kl/full_with_score/token/sequence_ratio:normalised",
        "k3/loss/token/geometric_mask:0.9-1.1:normalised",
        # Less the mean term of the group's tokens.
        "k1/own_token/token/none/token_mean",
        "k1/own_token/token/token_ratio/token_mean",
        "k3/reward_to_go/token/prefix_ratio/token_mean/gamma=0.5",
        "k2/reward_to_go/token/sequence_ratio/token_mean",
    ],
)
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
    drawn = sampled.sample(
        everything, task, streams.generator(3, "test"), batches=60, size=32, group=4
    )
    for combination, truth, found in zip(everything, truths, drawn, strict=True):
        distance = found.squared_distance(truth.mean)
        assert distance.value <= distance.furthest + 1e-24, combination.spec
        assert abs(found.variance - truth.variance) <= 5 * found.variance_se + 1e-18, (
            combination.spec
        )


def distances(task, mean):
    """Of an expected gradient from each of those that can be claimed, in units of the one that
    is wanted.
    """
    qp, pq = task.gradient("kl_qp"), task.gradient("kl_pq")
    exactly = {
        "grad KL(q‖p)": qp,
        "grad KL(p‖q)": pq,
        "grad KL(q‖p) - grad KL(p‖q)": qp - pq,
        "0": 0 * qp,
    }
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


def binds(combination, task, stale):
    """Whether its weight is another than the sequence's ratio.

    A bound keeps not all there is, no two policies are one.
    """
    if any((each.new, each.old) != ("q", "mu") for each in combination.factors):
        return {"lag", "mismatch"} <= set(stale)
    if combination.placement != "reward" or combination.signed:
        return True
    return any(
        not torch.allclose(
            ratio(combination, of), ratio(gradients.get("k1_reward_sequence_ratio"), of)
        )
        for of in (atoms.rollouts for atoms in task.atoms())
    )


@pytest.mark.parametrize(
    "stale",
    [
        {"lag": 0.2},
        {"lag": 0.2, "behind": "random"},
        {"mismatch": 0.1},
        {"lag": 0.2, "mismatch": 0.1},
    ],
    ids=["path", "random", "engine", "three policies"],
)
def test_claims_on_stale_samples_hold_where_they_are_said_to_and_nowhere_else(stale):
    """Where two of the three policies are one, a weight of another pair may be the right one."""
    task = sequence(**stale).gradient_task()
    for combination, found in zip(NAMED, exact.all_moments(NAMED, task), strict=True):
        off = distances(task, found.mean)
        if combination.claimed(tokens=3, stale=True):
            assert off[combination.claim] < 1e-10, combination.name
        elif combination.claim != "biased" and binds(combination, task, stale):
            assert off[combination.claim] > 1e-3, combination.name


@pytest.mark.parametrize(
    "combination", [each for each in NAMED if each.one_token], ids=lambda c: c.name
)
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


def test_nothing_is_left_of_that_noise_far_out_either():
    """Log-ratios to 104: of k3's own 1e45, -log r is to be found."""
    task = sequence(model="table", vocabulary=4, kl=6.714).gradient_task()
    scale = float(task.gradient("kl_qp").norm())
    total = [
        exact.moments(gradients.get(name), task).total_variance
        for name in ("k1_reward", "k3_sequence_loss_and_reward")
    ]
    assert max(total) < 1e-24 * scale**2


def test_the_total_at_the_optimum_by_backward_passes():
    """The reward's gradient, -(log q/p - its mean) times the score, added to the penalty's."""
    task = sequence(model="transformer", prompts=1).gradient_task()
    for name in ("k1_loss", "k2_sequence_loss", "k3_loss", "full_loss", "k3_sequence_ratio_loss"):
        combination = gradients.get(name)
        samples, p = every_sequence(task, 0)
        theta = task.theta().requires_grad_()
        rollouts = task.rollouts(theta, samples)
        u = (rollouts.log_q - rollouts.log_p).sum(-1).detach()
        found = gradients_of(
            surrogate(combination, rollouts) - (u - p @ u) * rollouts.log_q.sum(-1), theta
        )
        mean = p @ found
        variance = float(p @ (found**2).sum(-1)) - float(mean @ mean)
        assert exact.moments(combination, task).total_variance == pytest.approx(
            variance, rel=1e-9
        ), name


DEFINED = {
    "k1": (lambda x: -x, lambda x: mpmath.mpf(-1)),
    "k2": (lambda x: x * x / 2, lambda x: x),
    "k3": (lambda x: mpmath.exp(x) - 1 - x, lambda x: mpmath.exp(x) - 1),
}
"""Each estimator and its slope, as functions of the log-ratio."""
JS = (
    lambda x: (x * mpmath.exp(x) - (1 + mpmath.exp(x)) * mpmath.log((1 + mpmath.exp(x)) / 2)) / 2,
    lambda x: mpmath.exp(x) * (x - mpmath.log((1 + mpmath.exp(x)) / 2)) / 2,
)


def by_hand(combination, q, p, mu):
    """Mean, its size before anything cancels, and variance of the gradient of one token of a
    softmax, at 60 digits.

    ``w f`` has the derivative ``w (f [if the weight is differentiated] - f')`` in ``log q``; a
    score brings another ``w f``.
    """
    log_q, log_p, log_mu = (
        [x - mpmath.log(sum(map(mpmath.exp, side))) for x in map(mpmath.mpf, side)]
        for side in (q, p, mu)
    )
    probability, sampler = (list(map(mpmath.exp, side)) for side in (log_q, log_mu))
    in_reward = combination.placement in ("reward", "reward_to_go")
    value, slope = (
        DEFINED[name or combination.estimator]
        for name in (combination.estimator, combination.gradient_of)
    )
    coefficients = []
    for a in range(len(q)):
        x = log_p[a] - log_q[a]
        weight = 1 if combination.correction == "none" else mpmath.exp(log_q[a] - log_mu[a])
        weight = (
            min(weight, combination.cap) if combination.correction == "truncated_ratio" else weight
        )
        scored = (
            in_reward or combination.placement == "loss_and_reward" or combination.ratio_gradient
        )
        coefficients.append(
            weight * ((value[0](x) if scored else 0) - (0 if in_reward else slope[1](x)))
        )
    scores = [[(a == b) - probability[b] for b in range(len(q))] for a in range(len(q))]
    terms = [
        [w * c * each for each in score]
        for w, c, score in zip(sampler, coefficients, scores, strict=True)
    ]
    mean = [sum(column) for column in zip(*terms, strict=True)]
    size = sum(mpmath.norm(term) for term in terms)
    square = sum(
        w * c * c * mpmath.norm(score) ** 2
        for w, c, score in zip(sampler, coefficients, scores, strict=True)
    )
    return mean, size, square - mpmath.norm(mean) ** 2


ONE_TOKEN = [
    each
    for each in {each.spec: each for each in (*NAMED, *GRID)}.values()
    if each.estimator in DEFINED
    and each.baseline == "none"
    and each.simple
    and not (each.correction == "truncated_ratio" and each.ratio_gradient)
]
FAR = {
    **{f"{x}": ((0.0, x), (0.0, 0.0), (0.0, x)) for x in (-36.0, -40.0, -60.0, -300.0, -800.0)},
    "three": ((0.0, -40.0, -2.0), (0.0, -1.0, 0.5), (0.0, -40.0, -2.0)),
    "the rare one is the reference's": ((0.0, 0.3), (0.0, -50.0), (0.0, 0.3)),
    "stale": ((0.0, -40.0, -2.0), (0.0, -1.0, 0.5), (0.1, -38.0, -2.5)),
    "a sampler that is barely stale": ((0.0, -60.0), (0.0, 0.0), (0.0, -61.0)),
    "a sampler that all but never goes there": ((0.0, -0.3), (0.0, 2.5), (0.0, -800.0)),
    "a stale one beyond floats": ((0.0, -800.0, -2.0), (0.0, -1.0, 0.5), (0.1, -780.0, -2.5)),
}


@pytest.mark.parametrize("name", FAR)
def test_gradients_far_from_the_reference_keep_their_digits(name):
    """Where q is all but certain, 1 - q and whatever else is the difference of larger numbers
    would be rounding.
    """
    q, p, mu = FAR[name]
    sides = {"q": {"logits": q}, "p": {"logits": p}} | ({} if q == mu else {"mu": {"logits": mu}})
    task = pairs.get("categorical")(**sides).gradient_task()
    assert (task.staleness > 0.0) == (q != mu)
    found = exact.all_moments(ONE_TOKEN, task)
    reach = max(
        map(abs, (*q, *mu))
    )  # a log-ratio so large is rounded by so many units, and its exponential with it
    with mpmath.workdps(60 + int(reach / 2)):
        for combination, moments in zip(ONE_TOKEN, found, strict=True):
            mean, size, variance = by_hand(combination, q, p, mu)
            off = mpmath.norm(
                [mpmath.mpf(a) - b for a, b in zip(moments.mean.tolist(), mean, strict=True)]
            )
            assert off <= 1e-14 * max(1.0, reach / 50.0) * size + sys.float_info.min, (
                combination.spec
            )
            assert moments.variance == pytest.approx(
                float(variance), rel=1e-12, abs=1e-13 * float(size) ** 2
            ), combination.spec
        qp, pq = (task.gradient(target).tolist() for target in ("kl_qp", "kl_pq"))
        probability, reference = (
            [x / sum(map(mpmath.exp, side)) for x in map(mpmath.exp, side)] for side in (q, p)
        )
        log_ratio = [mpmath.log(a / b) for a, b in zip(probability, reference, strict=True)]
        kl = sum(a * u for a, u in zip(probability, log_ratio, strict=True))
        assert qp == pytest.approx(
            [float(a * (u - kl)) for a, u in zip(probability, log_ratio, strict=True)], rel=1e-13
        )
        assert pq == pytest.approx(
            [float(a - b) for a, b in zip(probability, reference, strict=True)], rel=1e-13
        )


def test_a_group_far_from_the_reference_is_the_sum_over_its_counts():
    """Of eight samples k take the rare token.

    The gradient is k (n - k) / n / (n - 1) times a difference of rewards.
    """
    n, x = 8, -40.0
    task = pairs.get("categorical")(
        q={"logits": (0.0, x)}, p={"logits": (0.0, 0.0)}
    ).gradient_task()
    found = exact.moments(gradients.get("trl_rloo"), task, n)
    with mpmath.workdps(60):
        rare = mpmath.exp(x) / (1 + mpmath.exp(x))
        # The gradient of the group is this times (e_rare - e_other), of length sqrt 2.
        step = [mpmath.mpf(k * (n - k)) / (n * (n - 1)) * x for k in range(n + 1)]
        p = [mpmath.binomial(n, k) * rare**k * (1 - rare) ** (n - k) for k in range(n + 1)]
        mean = sum(a * b for a, b in zip(p, step, strict=True))
        variance = 2 * n * (sum(a * b * b for a, b in zip(p, step, strict=True)) - mean**2)
        assert found.mean.tolist() == pytest.approx([-float(mean), float(mean)], rel=1e-12)
        assert found.variance == pytest.approx(float(variance), rel=1e-12)


@pytest.mark.parametrize("x", [-40.0, -300.0, -800.0])
@pytest.mark.parametrize("parts", ["loss", "reward", "loss/token/truncated_ratio"])
def test_so_do_those_of_what_is_no_polynomial(monkeypatch, parts, x):
    monkeypatch.setitem(DEFINED, "bregman_js", JS)
    sides = (0.0, x), (0.0, 0.0)
    task = pairs.get("categorical")(
        **{side: {"logits": each} for side, each in zip("qp", sides, strict=True)}
    ).gradient_task()
    combination = gradients.get(f"bregman_js/{parts}")
    found = exact.moments(combination, task)
    with mpmath.workdps(60 + int(abs(x) / 2)):
        mean, size, variance = by_hand(combination, *sides, sides[0])
    assert found.mean.tolist() == pytest.approx(
        [float(each) for each in mean], rel=1e-12, abs=1e-14 * float(size)
    )
    assert found.variance == pytest.approx(float(variance), rel=1e-12)


@pytest.mark.parametrize("x", [-40.0, -300.0, -800.0])
@pytest.mark.parametrize("baseline", ["token_kl", "leave_one_out", "batch_mean"])
def test_a_baseline_takes_nothing_from_a_ratio_that_no_float_holds(baseline, x):
    """The score has mean 0.

    The mean gradient is that without a baseline, of a group's own mean 7/8.
    """
    sides = (0.0, x), (0.0, 0.0)
    task = pairs.get("categorical")(
        **{side: {"logits": each} for side, each in zip("qp", sides, strict=True)}
    ).gradient_task()
    found = exact.moments(gradients.get(f"k3/reward/token/none/{baseline}"), task, 8)
    with mpmath.workdps(60 + int(abs(x) / 2)):
        mean, _, _ = by_hand(gradients.get("k3_reward"), *sides, sides[0])
    share = 7 / 8 if baseline == "batch_mean" else 1.0
    assert found.mean.tolist() == pytest.approx([float(share * each) for each in mean], rel=1e-12)
    assert found.variance > 1e16
    assert found.total_variance > 1e16


GAUSSIAN = {"q": {"mean": 0.2, "std": 0.9}, "p": {"mean": -0.4, "std": 1.1}}
EXPONENTIAL = {"q": {"rate": 1.3}, "p": {"rate": 0.9}}


@pytest.mark.parametrize(("kind", "sides"), [("gaussian", GAUSSIAN), ("exponential", EXPONENTIAL)])
@pytest.mark.parametrize(
    "spec",
    [
        "k1/loss",
        "k2/loss",
        "k3/loss",
        "k2/reward",
        "k3/reward",
        "k3/loss_and_reward",
        "k3@k2/straight_through",
        "k1/reward/token/none/token_kl",
        "k3/loss/token/token_ratio:differentiated",
        "k_lambda:0.3/loss",
    ],
)
def test_closed_forms_against_quadrature(kind, sides, spec):
    task = pairs.get(kind)(**sides).gradient_task()
    combination = gradients.get(spec)
    found = closed.moments(combination, task)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    edges = (
        np.linspace(-14.0, 14.0, 29)
        if kind == "gaussian"
        else np.concatenate([[0.0], np.geomspace(0.1, 90.0, 24)])
    )
    half = np.diff(edges)[:, None] / 2
    x = torch.from_numpy((edges[:-1, None] + half * (nodes + 1)).reshape(-1, 1))
    theta = task.theta().requires_grad_()
    rollouts = task.rollouts(theta, x)
    p = torch.from_numpy((half * weights).ravel()) * rollouts.log_mu[:, 0].exp()
    each = gradients_of(surrogate(combination, rollouts), theta)
    mean = p @ each
    torch.testing.assert_close(found.mean, mean, rtol=1e-9, atol=1e-11)
    assert found.variance == pytest.approx(
        float(p @ (each**2).sum(-1)) - float(mean @ mean), rel=1e-9, abs=1e-11
    )


@pytest.mark.parametrize(("kind", "sides"), [("gaussian", GAUSSIAN), ("exponential", EXPONENTIAL)])
def test_totals_in_closed_form(kind, sides):
    """With k1 in the reward, reward and penalty cancel sample by sample at the optimum.

    k1 in the loss adds a score.
    """
    task = pairs.get(kind)(**sides).gradient_task()
    scale = float(task.gradient("kl_qp").norm())
    for name in (
        "k1_reward",
        "k1_reward_token_kl",
        "k1_reward_sequence_ratio",
        "k3_loss_and_reward",
    ):
        assert closed.moments(gradients.get(name), task).total_variance == pytest.approx(
            0.0, abs=1e-24 * scale**2
        ), name
    samples = task.sample(np.random.default_rng(5), 400_000)
    rollouts = task.rollouts(task.theta(), samples)
    u = rollouts.log_q - rollouts.log_p
    each = (1.0 - (u - u.mean())) * task.scores(
        task.theta(), samples
    )  # less the reward, log q/p less its mean, times the score
    squares = (each**2).sum(1)
    found = float(squares.mean() - (each.mean(0) ** 2).sum())
    error = 5 * float(squares.std()) / math.sqrt(len(u))
    assert abs(closed.moments(gradients.get("k1_loss"), task).total_variance - found) <= error


def test_where_the_second_moment_diverges_the_variance_is_infinite():
    task = pairs.get("gaussian")(q={"std": 1.0}, p={"std": 1.5}).gradient_task()
    assert closed.moments(gradients.get("k3_loss"), task).variance == math.inf
    assert closed.moments(gradients.get("k1_reward"), task).variance < math.inf


@pytest.mark.parametrize(("mean", "variance"), [(1.0, 5.107667), (0.0, 4.550875)])
@pytest.mark.parametrize("name", ["k2_loss", "k3_loss_and_reward", "k3_ratio_loss"])
def test_powers_of_the_ratio_that_cancel_have_no_tail(name, mean, variance):
    """With the score that belongs to it, the path of k3 is ``-log r`` times the score, sample by
    sample, as that of k2.
    """
    task = pairs.get("gaussian")(
        q={"mean": 0.3, "std": 1.0}, p={"mean": mean, "std": 1.5}
    ).gradient_task()
    found = closed.moments(gradients.get(name), task)
    torch.testing.assert_close(found.mean, task.gradient("kl_qp"), rtol=1e-12, atol=1e-14)
    # E[u^2 (z^2 + (z^2 - 1)^2)] - |E[u s]|^2, u = log q/p, on a fine grid of z.
    z = np.linspace(-12.0, 12.0, 48_001)
    u = 0.5 * ((0.3 + z - mean) / 1.5) ** 2 - 0.5 * z * z + math.log(1.5)
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    on_grid = (
        density @ (u**2 * (z**2 + (z**2 - 1.0) ** 2))
        - (density @ (u * z)) ** 2
        - (density @ (u * (z**2 - 1.0))) ** 2
    )
    assert found.variance == pytest.approx(on_grid, rel=1e-10)
    assert found.variance == pytest.approx(variance, abs=5e-7)


def test_a_pure_shift_of_gaussians_cannot_tell_the_gradients_apart():
    task = pairs.get("gaussian")(q={"mean": 0.0}, p={"mean": 1.0}).gradient_task()
    difference = task.gradient("kl_qp") - task.gradient("kl_pq")
    assert abs(float(difference[0])) < 1e-15
    assert abs(float(difference[1])) > 0.1  # the scale, which a location family hides


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("k3/los", "unknown placement 'los'; did you mean 'loss'?"),
        ("k4/loss", "unknown estimator 'k4'"),
        ("k3/loss/word", "unknown level 'word'"),
        (
            "k3/loss/token/tokn_ratio",
            "unknown correction 'tokn_ratio'; did you mean 'token_ratio'?",
        ),
        ("k3/loss/token/none/leave_one_out", "only a reward has a baseline"),
        ("k3/reward_to_go/sequence", "reward_to_go is of level token"),
        ("k3/full", "full_kl and the placements full and full_with_score go together"),
        ("full_kl/loss", "full_kl and the placements full and full_with_score go together"),
        ("k3/straight_through", "straight_through needs gradient_of"),
        ("k3/reward/token/token_ratio:differentiated", "a score's weight is detached"),
        ("k3/loss/token/none:differentiated", "there is no ratio to differentiate"),
        (
            "k3/loss/sequence/token_ratio",
            "one term for the whole sequence cannot have a token_ratio",
        ),
        ("k3/loss/token:mean/none/leave_one_out", "only a reward has a baseline"),
        ("k3/loss/sequence:mean", "only a sum over tokens can be divided by the length"),
        ("k3/reward/token:mean", "only what stands in the loss is divided by the length"),
        (
            "k3/loss/token/truncated_ratio:0",
            "expected a positive number after truncated_ratio, got '0'",
        ),
        (
            "k3/loss/token/token_ratio:3",
            "token_ratio takes no number; those that do: truncated_ratio,",
        ),
        ("k3/loss/token/truncated_ratio:x", "expected a number after truncated_ratio, got 'x'"),
        ("k_fitted/loss", "k_fitted is no mean of terms of the log-ratio alone"),
        ("k3", "unknown combination 'k3'"),
        ("k3/loss/token/none/none/none", "expected estimator/placement/level/correction/baseline"),
    ],
)
def test_what_does_not_go_together_is_refused(spec, message):
    with pytest.raises(ConfigError, match=r".") as error:
        gradients.get(spec)
    assert message in str(error.value)


def test_names_aliases_and_specs_find_the_same():
    for version in ("trl_grpo", "trl_grpo@1.16", "trl_grpo@1.15", "trl_grpo@1.10"):
        assert gradients.get(version) is gradients.get("k3_ratio_loss")
    assert gradients.get("trl_grpo@1.9") is gradients.get("k3_loss")
    for combination in NAMED:
        spelled = gradients.get(combination.spec)
        assert spelled.spec == combination.spec
        for alias in combination.aliases:
            assert gradients.get(alias) is combination


@pytest.mark.parametrize("lag", [0.0, 0.3])
@pytest.mark.parametrize(
    ("name", "corrected", "length_mean"),
    [
        ("trl_grpo", True, False),
        ("trl_grpo@1.9", False, False),
        ("trl_grpo_sequence_mean", True, True),
        ("trl_grpo_sequence_mean@1.9", False, True),
    ],
)
def test_trls_names_are_what_trl_computes(name, corrected, length_mean, lag):
    """``GRPOTrainer._compute_loss`` of TRL 1.9.2 and 1.16.0, beta 1, as it is written there.

    Old: who sampled.
    """
    task = sequence(prompts=1, model="table", lag=lag).gradient_task()
    samples, p = every_sequence(task, 0)
    theta = task.theta().requires_grad_()
    rollouts = task.rollouts(theta, samples)
    per_token_logps, ref, old, mask = (
        rollouts.log_q,
        rollouts.log_p,
        rollouts.log_mu.detach(),
        rollouts.mask,
    )
    per_token_kl = torch.exp(ref - per_token_logps) - (ref - per_token_logps) - 1
    if corrected:
        per_token_kl = per_token_kl * torch.exp(per_token_logps - old)
    loss = (per_token_kl * mask).sum(-1)
    if length_mean:
        loss = loss / mask.sum(-1).clamp(min=1.0)
    (expected,) = torch.autograd.grad(p @ loss, theta, retain_graph=True)
    found = exact.moments(gradients.get(name), task).mean
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_length_mean_divides_by_the_tokens_that_count():
    task = sequence(prompts=1, model="table").gradient_task()
    samples, _ = every_sequence(task, 0)
    rollouts = task.rollouts(task.theta(), samples)
    summed, mean = (
        surrogate(gradients.get(spec), rollouts) for spec in ("k3/loss", "k3/loss/token:mean")
    )
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
            grads = torch.autograd.grad(
                found.sum(), (log_q, kl), allow_unused=True, materialize_grads=True
            )
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
    """The weight of the prefix is exp(800) = inf at its one token and at the padding after it,
    whose term is 0.
    """
    zero, mask = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[True, False]])
    rollouts = Rollouts(
        zero, zero - 0.5, torch.tensor([[-800.0, 0.0]], dtype=torch.float64), zero, mask
    )
    assert surrogate(gradients.get("k1/loss/token/prefix_ratio"), rollouts).tolist() == [math.inf]


@pytest.mark.parametrize("filler", [math.nan, math.inf])
def test_scores_select_what_counts(filler):
    task = sequence(prompts=1, model="table").gradient_task()
    for each in task.atoms():
        token, mask = torch.ones_like(each.rollouts.log_q), each.rollouts.mask
        assert not mask.all()
        bad = torch.where(mask, token, filler)
        torch.testing.assert_close(
            each.scores.pull(bad, bad), each.scores.pull(token * mask, token * mask)
        )


def test_where_it_is_cut_off():
    task = sequence(prompts=1, model="table", lag=0.3).gradient_task()
    samples, _ = every_sequence(task, 0)
    rollouts = task.rollouts(task.theta(), samples)
    free, cut = (
        ratio(gradients.get(f"k1/loss/sequence/{c}"), rollouts)
        for c in ("sequence_ratio", "truncated_ratio:1.5")
    )
    torch.testing.assert_close(cut, free.clamp(max=1.5))
    assert float(free.max()) > 1.5


def test_leave_one_out_needs_two():
    task = sequence(model="transformer", prompts=1).gradient_task()
    samples, _ = every_sequence(task, 0)
    with pytest.raises(ValueError, match="at least 2 sequences in a group, got 1"):
        surrogate(gradients.get("trl_rloo"), task.rollouts(task.theta(), take(samples, [0])))
    with pytest.raises(ValueError, match="3 sequences do not make groups of 2"):
        surrogate(
            gradients.get("trl_rloo"), task.rollouts(task.theta(), take(samples, [0, 1, 2])), 2
        )


def test_the_grid_covers_every_placement_correction_and_baseline():
    assert {each.placement for each in GRID} == set(Placement.__args__)
    assert {each.correction for each in GRID} == set(CORRECTIONS)
    # The mean over a group's tokens has tests of its own, in test_token_mean.py.
    assert {each.baseline for each in GRID} == set(Baseline.__args__) - {"token_mean"}
    assert len({each.spec for each in GRID}) == len(GRID)
