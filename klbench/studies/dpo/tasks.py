"""The work of one process of the DPO study: some seeds, one number of pairs, all arms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from klbench.rlhf.dpo import judged, train
from klbench.rlhf.options import DpoArm
from klbench.rlhf.rows import by_replica
from klbench.rlhf.testbed import Testbed, implied
from klbench.rlhf.testbed.dpo_world import PreferenceReplicas, population, ratios, sampled
from klbench.rows import Rows
from klbench.studies.dpo import estimates
from klbench.studies.dpo.options import DpoOptions
from klbench.threads import one_thread


def optima(options: DpoOptions, testbed: Testbed) -> Tensor:
    """Each arm's exact population optimum, ``(arms, seeds, prompts, leaves)``.

    NaN where none is known.
    """
    return torch.stack(
        [implied.arm_optimum(testbed, arm, options.scale, options.flips) for arm in options.arms]
    )


def perform(options: DpoOptions, seed: int, size: float, seeds: tuple[int, ...]) -> dict[str, Rows]:
    """Rows ``training``, one an arm, seed and evaluation, ``estimates`` and ``points``.

    ``size`` may be infinite.
    """
    with one_thread():
        testbed, arms = Testbed.of(options, seed, seeds), options.arms
        every = population(testbed, options.scale, options.flips)
        preferences = (
            every if math.isinf(size) else sampled(testbed, int(size), options.scale, options.flips)
        )
        world = PreferenceReplicas(
            testbed,
            len(arms),
            preferences,
            rate=options.learning_rate,
            clip=options.gradient_clip,
            steps=options.steps if options.decay else None,
            batch=None if math.isinf(size) else options.batch,
        )
        own, training = optima(options, testbed), []
        estimate_rows: Rows = []
        point_rows: Rows = []
        for report in train(world, arms, steps=options.steps, every=options.every):
            with torch.no_grad():
                log_probs = world.log_q
                log_q = testbed.tree.sum_along(log_probs)
                values = _exact(options, testbed, arms, log_q, own)
                whole = judged(arms, ratios(testbed, log_q, every))
                k1_now = estimates.k1(testbed, log_q, options.completions, report.step)
                reward_fit = implied.fit(
                    testbed, arms, log_q, options.scale, testbed.leaf_log_p.exp()
                )
                policy_fit = implied.fit(testbed, arms, log_q, options.scale, log_q.exp())
            values |= {
                "loss": report.loss,
                "accuracy": report.accuracy,
                "margin": report.margin,
                "population_loss": whole.loss,
                "population_accuracy": whole.accuracy,
                "reward_slope": reward_fit.slope,
                "reward_correlation": reward_fit.correlation,
                "policy_slope": policy_fit.slope,
                "policy_correlation": policy_fit.correlation,
            } | k1_now
            training += _rows(arms, seeds, size, report.step, values, world.optimizer.causes)
            if not math.isinf(size):
                estimate_rows += estimates.rows(
                    testbed, log_probs[0], preferences, options.completions, int(size), report.step
                )
            for i in (i for i, arm in enumerate(arms) if arm.loss == "kto"):
                point_rows += estimates.points(testbed, log_q[i], preferences, size, report.step)
        return {"training": training, "estimates": estimate_rows, "points": point_rows}


def _exact(
    options: DpoOptions, testbed: Testbed, arms: Sequence[DpoArm], log_q: Tensor, own: Tensor
) -> dict[str, Tensor]:
    """Against the optimum of ``E r - beta KL(q‖p)``, and against each arm's own."""
    exact = testbed.exact_leaves(log_q, torch.full((len(arms),), options.beta, dtype=torch.float64))
    to_own = (log_q.exp() * (log_q - own)).sum(-1).mean(-1)
    # Not finite, where the loss's own optimum has none of what the policy has some.
    shared = ((own > implied.LOG_ZERO) | (log_q <= implied.LOG_ZERO)).all(-1).all(-1)
    to_own = torch.where(shared, to_own, math.nan)
    penalty = torch.stack(
        [implied.divergence_of(testbed, log_q[i], arm.divergence) for i, arm in enumerate(arms)]
    )
    return exact._asdict() | {"kl_to_own": to_own, "divergence_value": penalty}


def _rows(
    arms: Sequence[DpoArm],
    seeds: Sequence[int],
    size: float,
    step: int,
    values: Mapping[str, Tensor],
    causes: Mapping[tuple[int, ...], tuple[int, str]],
) -> Rows:
    found = by_replica(values)
    rows = []
    for i, arm in enumerate(arms):
        for j, k in enumerate(seeds):
            when, cause = causes.get((i, j), (step, ""))
            rows.append(
                {"arm": arm.name, "pairs": float(size), "seed": k, "step": step}
                | found[i][j]
                | {"status": f"diverged at step {when}: {cause}" if cause and step > when else "ok"}
            )
    return rows


def optimum_rows(options: DpoOptions, seed: int, seeds: tuple[int, ...]) -> Rows:
    """One row an arm and seed.

    Its population optimum, and the population's gradient there over that at the reference.
    """
    with one_thread():
        testbed, arms = Testbed.of(options, seed, seeds), options.arms
        own = optima(options, testbed)
        values = _exact(options, testbed, arms, own, own)
        with torch.no_grad():
            values |= implied.fit(
                testbed, arms, own, options.scale, testbed.leaf_log_p.exp()
            )._asdict()
            start = testbed.exact_leaves(
                testbed.leaf_log_p.expand_as(own),
                torch.full((len(arms),), options.beta, dtype=torch.float64),
            )
        values |= {"start": start.kl_to_optimum}
        values |= {
            "residual": implied.population_gradient(
                testbed, arms, own, population(testbed, options.scale, options.flips)
            )
        }
        return _rows(arms, seeds, math.inf, 0, values, {})
