"""Exact expected gradients against the gradients study, fixed points against them, and training without noise."""

import dataclasses
import math

import pytest
import torch

from klbench import gradients, pairs
from klbench.gradients.exact import all_moments
from klbench.rlhf.penalty import PenaltyArm, arm
from klbench.rlhf.testbed import expected, fixed_points, padded

BETA = 0.2
SMALL = {"vocabulary": 3, "horizon": 3, "prompts": 2, "width": 4}


def betas(n):
    return torch.full((n,), BETA, dtype=torch.float64)


@pytest.mark.parametrize("model", ["gru", "table"])
def test_every_combination_has_the_gradient_of_the_gradients_study(bed, model) -> None:
    pair = pairs.get("sequence")(model=model, kl=0.4, **SMALL)
    names = [each for each in gradients.names() if gradients.get(each).trainable]
    chosen = [gradients.get(name) for name in names]
    task = pair.gradient_task()
    # The testbed with the pair's own reference; a reward of 0 leaves the penalty's gradient alone.
    mine = dataclasses.replace(bed, model=model, seeds=(0,))
    mine.__dict__["reference"] = padded(pair.parameters["p"][None])
    mine.__dict__["reward"] = torch.zeros(1, 2, mine.tree.leaves, dtype=torch.float64)
    theta = padded(pair.parameters["q"][None]).expand(len(names), -1, -1)
    _, found = expected.gradients(
        mine, [PenaltyArm(each, BETA) for each in chosen], theta, betas(len(names)), 8
    )
    size = mine.policy.parameters
    for name, gradient, moments in zip(
        names, found[:, 0, :size], all_moments(chosen, task, 8), strict=True
    ):
        scale = float(task.gradient("kl_qp").norm())
        assert float((gradient - BETA * moments.mean).norm()) < 1e-12 * scale, name


def test_the_rewards_gradient_is_the_one_of_its_mean(bed) -> None:
    theta = bed.reference[None].clone().requires_grad_()
    exact = bed.exact(bed.everywhere(theta), betas(1))
    (true,) = torch.autograd.grad(exact.reward.sum(), theta)
    _, found = expected.gradients(bed, [arm("none", BETA)], theta, betas(1), 8)
    assert torch.allclose(found, -true, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("k1_reward", "optimum"),
        ("k2_sequence_loss", "optimum"),
        ("full_with_score", "optimum"),
        ("k2_loss", "token_kl"),
        ("full_loss", "token_kl"),
        ("k3_plus", "token_kl"),
        ("k3_ratio_loss", "token_kl"),
        ("k3_loss", "token_k3"),
        ("k3_sequence_loss", "sequence_k3"),
        ("k1_loss", "greedy"),
        ("none", "greedy"),
        ("k3_reward", ""),
    ],
)
def test_the_whole_gradient_vanishes_at_the_predicted_policy_and_there_only(
    bed, name, point
) -> None:
    one = arm(name, BETA)
    ((found, residual),) = fixed_points.which(bed, [one], 8)
    assert found == point
    if point:
        assert residual < 1e-13
    residuals = fixed_points.residuals(bed, [one], 8)
    assert all(float(each.min()) > 1e-3 for other, each in residuals.items() if other != point)


def test_what_the_formulas_say(bed) -> None:
    beta = betas(1)
    optimum = fixed_points.predicted(bed, "optimum", beta)
    assert torch.allclose(bed.tree.sum_along(optimum), bed.log_optimum(beta), atol=1e-12)
    held = bed.tree.sum_along(fixed_points.predicted(bed, "sequence_k3", beta))
    constant = bed.reward + BETA * (bed.leaf_log_p - held).exp()
    assert float((constant.max(-1)[0] - constant.min(-1)[0]).max()) < 1e-10
    for name in fixed_points.NAMES:
        assert float(fixed_points.predicted(bed, name, beta).logsumexp(-1).abs().max()) < 1e-12


def test_with_one_token_the_token_formulas_are_those_of_the_sequence(bed) -> None:
    short = dataclasses.replace(bed, horizon=1)
    beta = betas(1)
    for token, sequence in (("token_kl", "optimum"), ("token_k3", "sequence_k3")):
        assert torch.allclose(
            *(fixed_points.predicted(short, name, beta) for name in (token, sequence)), atol=1e-12
        )


def test_without_noise_training_goes_where_it_is_predicted(bed) -> None:
    names = ["k1_reward", "k2_loss", "k3_loss", "k3_sequence_loss"]
    found = expected.settle(bed, [arm(n, BETA) for n in names], least=60, most=2000, group=8)
    exact = bed.exact(found.log_probs, betas(4))
    for i, point in enumerate(("optimum", "token_kl", "token_k3", "sequence_k3")):
        predicted = bed.exact(fixed_points.predicted(bed, point, betas(1)), betas(1))
        assert torch.allclose(exact.regret[i], predicted.regret[0], atol=1e-6 if i < 3 else 1e-4), (
            point
        )
        assert torch.allclose(exact.kl[i], predicted.kl[0], atol=1e-4), point
    assert bool((found.residual <= expected.REST).all())
    assert bool((found.steps >= 60).all())
    assert float(exact.regret[0].max()) < 1e-6
    assert float(exact.regret[1:].min()) > 1e-3


def test_where_steps_do_not_suffice_it_is_no_rest(bed) -> None:
    names = ["k1_reward", "k3_sequence_loss", "k3_reward"]
    short = expected.settle(bed, [arm(n, BETA) for n in names], least=10, most=10, group=8)
    assert bool((short.residual > expected.REST).all())
    assert bool((short.steps == 10).all())
    long = expected.settle(bed, [arm(n, BETA) for n in names[:2]], least=40, most=3000, group=8)
    assert bool((long.residual <= expected.REST).all())
    assert bool((long.steps[1] > long.steps[0]).all())
    none = expected.settle(bed, [arm("k3_reward", BETA)], least=40, most=200, group=8)
    assert bool((none.residual > 0.01).all())


def test_a_free_policy_that_overflows_stops_no_other(bed, monkeypatch) -> None:
    # k3 in the reward drives what the reference holds out of reach: exp(log p - log q) overflows.
    monkeypatch.setattr(expected, "FREE_LARGEST", 200.0)
    overflowed = []
    gradients_of = expected.gradients

    def watched(*args, **kwargs):
        loss, gradient = gradients_of(*args, **kwargs)
        overflowed.append((~gradient.isfinite()).any(-1))
        return loss, gradient

    monkeypatch.setattr(expected, "gradients", watched)
    found = expected.settle(
        bed, [arm("k1_reward", BETA), arm("k3_reward", 5.0)], least=60, most=60, group=8
    )
    assert torch.cat(overflowed).any()
    assert found.residual.isfinite().all(-1).tolist() == [True, False]
    assert bool(found.log_probs.isfinite().all())
    for k, seed in enumerate(bed.seeds):
        alone = expected.settle(
            dataclasses.replace(bed, seeds=(seed,)),
            [arm("k3_reward", 5.0)],
            least=60,
            most=60,
            group=8,
        ).log_probs
        assert torch.equal(found.log_probs[1, k], alone[0, 0])


def test_k1_in_the_loss_drifts_as_if_there_were_no_kl(bed) -> None:
    arms = [arm(n, BETA) for n in ("k1_loss", "none", "k1_reward")]
    *_, (_, log_q) = expected.train(
        bed, arms, steps=150, rate=0.05, clip=1.0, decay=False, group=8, every=150
    )
    exact = bed.exact(log_q, betas(3))
    assert torch.allclose(exact.kl[0], exact.kl[1], rtol=1e-6)
    assert bool((exact.regret[0] > 20 * exact.regret[2]).all())
    assert bool((fixed_points.greedy(bed, betas(1)).reward > exact.reward[0]).all())


def test_alike_are_those_with_one_expected_gradient(bed) -> None:
    names = ["k1_reward", "k2_sequence_loss", "k2_loss", "k3_plus", "none", "k1_loss", "k3_loss"]
    assert expected.alike(bed, [arm(n, BETA) for n in names], 8) == [0, 0, 2, 2, 4, 4, 6]
    assert expected.alike(bed, [arm("k1_reward", 0.1), arm("k1_reward", 0.2)], 8) == [0, 1]


def test_a_group_mean_that_includes_the_sample_shrinks_the_penalty(bed) -> None:
    arms = [arm("k1_reward_batch_mean", BETA), arm("k1_reward", BETA * 7 / 8)]
    beta = torch.tensor([each.beta for each in arms], dtype=torch.float64)
    drawn = torch.randn(
        1,
        2,
        bed.reference.shape[-1],
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(0),
    )
    _, found = expected.gradients(bed, arms, (bed.reference + 0.2 * drawn).repeat(2, 1, 1), beta, 8)
    assert torch.allclose(found[0], found[1], atol=1e-13)
    assert math.isfinite(float(found.sum()))
