"""Training: a PPO update of a stack of policies, their expected gradients, and a DPO step."""

from __future__ import annotations

from typing import Any

import pytest

from klbench.rlhf import testbed
from klbench.rlhf.penalty import arm
from klbench.rlhf.ppo import Recipe, train
from klbench.rlhf.testbed import expected
from klbench.rlhf.testbed.ppo_world import Replicas

NAMES = ("k1_reward", "k2_loss", "k3_loss", "full_loss")


@pytest.fixture(scope="module")
def bed() -> testbed.Testbed:
    return testbed.Testbed("gru", vocabulary=4, horizon=3, prompts=4, width=8, seed=0, seeds=(0, 1))


@pytest.mark.parametrize("critic", [False, True], ids=["no critic", "critic"])
def bench_ppo_update(critic: bool, bed: testbed.Testbed, benchmark: Any) -> None:
    arms = [arm(name, 0.2) for name in NAMES]
    recipe = Recipe(updates=1, critic=critic, baseline="none" if critic else "leave_one_out")

    def update() -> Any:
        world = Replicas(
            bed,
            len(arms),
            group=recipe.group,
            rate=0.02,
            clip=1.0,
            steps=None,
            critic=critic,
            lag=0,
        )
        return list(train(world, arms, recipe))

    assert len(benchmark(update)) == 2


def bench_expected_gradient(bed: testbed.Testbed, benchmark: Any) -> None:
    import torch

    arms = [arm(name, 0.2) for name in NAMES]
    beta = torch.full((len(arms),), 0.2, dtype=torch.float64)
    start = bed.reference.expand(len(arms), *bed.reference.shape)
    assert benchmark(expected.gradients, bed, arms, start, beta, 8)[1].shape == start.shape


def bench_evaluation(bed: testbed.Testbed, benchmark: Any) -> None:
    import torch

    beta = torch.tensor([0.2], dtype=torch.float64)
    assert float(benchmark(bed.exact, bed.log_p[None], beta).kl.abs().max()) < 1e-12


def bench_dpo_step(bed: testbed.Testbed, benchmark: Any) -> None:
    dpo_world = pytest.importorskip("klbench.rlhf.testbed.dpo_world")
    dpo = pytest.importorskip("klbench.rlhf.dpo")
    arms = [dpo.DpoArm(name, 1.0, name) for name in ("kl_qp", "kl_pq", "js", "hellinger")]
    preferences = dpo_world.sampled(bed, 256, 4.0)

    def step() -> Any:
        world = dpo_world.PreferenceReplicas(
            bed, len(arms), preferences, rate=0.02, clip=1.0, steps=None
        )
        return list(dpo.train(world, arms, steps=1, every=1))

    assert len(benchmark(step)) == 2
