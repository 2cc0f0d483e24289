"""The pretraining term of the loop, against enumeration, finite differences, and the other KL."""

import dataclasses

import pytest
import torch

from klbench.rlhf.penalty import arm
from klbench.rlhf.ppo import Recipe, train
from klbench.rlhf.testbed import expected
from klbench.rlhf.testbed.ppo_world import Replicas

BETA = 0.2
SHORT = Recipe(updates=4, epochs=2, group=4, every=2)


def world(bed, arms, recipe):
    return Replicas(
        bed, len(arms), group=recipe.group, rate=0.02, clip=1.0, steps=None, critic=False, lag=0
    )


def test_the_pretraining_term_by_enumeration_and_finite_differences(bed) -> None:
    arms = [arm("none", BETA)] * 2
    replicas = world(bed, arms, dataclasses.replace(SHORT, group=4000))
    with torch.no_grad():
        replicas.theta += 0.3 * torch.sin(
            torch.arange(replicas.theta.shape[-1]) + torch.tensor([[[0.0]], [[1.0]]])
        )
    exact = replicas.pretraining(0, exact=True)
    leaves = bed.tree.sum_along(bed.everywhere(replicas.policies))
    by_hand = [
        [
            sum(float((bed.leaf_log_p[k, x].exp() * leaves[i, k, x]).sum()) for x in range(2)) / 2
            for k in range(2)
        ]
        for i in range(2)
    ]
    assert torch.allclose(exact, torch.tensor(by_hand, dtype=exact.dtype), atol=1e-13)
    (gradient,) = torch.autograd.grad(exact.sum(), replicas.theta)
    step = torch.zeros_like(replicas.theta)
    for j in (0, 7, 40):
        step[..., j] = 1e-5
        up, down = (
            bed.tree.sum_along(bed.everywhere(replicas.policies + sign * step)) for sign in (1, -1)
        )
        slope = (bed.leaf_log_p.exp() * (up - down)).sum(-1).mean(-1) / 2e-5
        assert torch.allclose(gradient[..., j], slope, atol=1e-8)
        step[..., j] = 0.0
    # 8,000 samples a seed; the spread of log q under the reference is about 1.
    sampled = replicas.pretraining(0, exact=False)
    spread = (bed.leaf_log_p.exp() * (leaves - exact[..., None, None]) ** 2).sum(-1).mean(
        -1
    ).sqrt() / 8000**0.5
    assert bool(((sampled - exact).abs() < 5 * spread).all())
    assert bool((sampled != exact).all())


def test_the_pretraining_term_is_the_gradient_of_the_other_kl(bed) -> None:
    # gamma E_ref[log q] = -gamma KL(ref‖q) + constant, whose gradient is that of k3 in the loss, of
    # whole sequences.
    theta = (bed.reference + 0.3 * torch.sin(torch.arange(bed.reference.shape[-1])))[None]
    beta = torch.tensor([0.7], dtype=torch.float64)
    _, penalty = expected.gradients(bed, [arm("k3_sequence_loss", 0.7)], theta, beta, 8)
    _, term = expected.gradients(bed, [arm("none", 0.7)], theta, beta, 8, pretraining_weight=0.7)
    assert torch.allclose(penalty, term, atol=1e-13)
    # And it is what the loop adds to its first step: the second arm's loss has it, on exact
    # expectations.
    recipe = dataclasses.replace(SHORT, updates=1, epochs=1)
    found = []
    for weight in (0.0, 0.7):
        replicas = world(bed, [arm("none", BETA)], recipe)
        with torch.no_grad():
            replicas.theta.copy_(theta)
        replicas.optimizer.descend = lambda loss, gradient, update: found.append(gradient)
        with_term = dataclasses.replace(recipe, pretraining_weight=weight)
        list(
            train(
                replicas,
                [arm("none", BETA)],
                with_term,
                lambda u, r=replicas: r.pretraining(u, exact=True),
            )
        )
    _, nothing = expected.gradients(bed, [arm("none", 0.7)], theta, beta, 8)
    assert torch.allclose(found[1] - found[0], term - nothing, atol=1e-13)
    with pytest.raises(ValueError, match="needs pretraining sequences"):
        next(
            train(
                replicas, [arm("none", BETA)], dataclasses.replace(recipe, pretraining_weight=1.0)
            )
        )
