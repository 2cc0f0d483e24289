"""A token that the policy has lost and the reference holds: who brings it back, and how gently.

Sequences of one token, a logit of its own for each token of each prompt. At every prompt the token
that the reference holds most has its logit pushed down by so many nats; then training goes on as
elsewhere. Its samples are rare, and what an estimator says at them is what brings it back: k3's
gradient there is ``1 - exp(log p - log q)``, as large as the token is rare.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from klbench.metrics.seeds import SeedFrame, band, mean, summary
from klbench.rlhf import ppo
from klbench.rlhf.penalty import PenaltyArm, arm
from klbench.rlhf.ppo import PpoBatch, Recipe
from klbench.rlhf.rows import by_replica, described
from klbench.rlhf.testbed import Testbed, expected
from klbench.rlhf.testbed.ppo_world import Replicas
from klbench.rows import Row, Rows
from klbench.studies.ppo.options import TrainingOptions


class _RecordingReplicas(Replicas):
    """Replicas that keep the norm of every gradient, before any clip, and whether a batch had a
    lost token.
    """

    lost: Tensor
    norms: list[Tensor]
    seen: list[Tensor]

    def sample(self, update: int, lag: int) -> PpoBatch:
        """Sample a batch, and note whether it has the lost token."""
        batch = super().sample(update, lag)
        first = batch.inputs.token[..., 0]  # type: ignore[attr-defined]
        self.seen.append((first == self.lost[:, self._prompts]).any(-1))
        return batch

    def step(self, loss: Tensor, update: int) -> None:
        """Take a step, and keep the norm of its gradient."""
        super().step(loss, update)
        self.norms.append(self.optimizer.norm)


def short_testbed(testbed: Testbed) -> Testbed:
    """The testbed's sequences cut to one token, each with a logit of its own."""
    return replace(testbed, model="table", horizon=1)


def lost_tokens(testbed: Testbed) -> Tensor:
    """The ordinary token that the reference holds most, ``(seeds, prompts)``."""
    return testbed.log_p[:, :, 0, :-1].argmax(-1)


def held(testbed: Testbed, log_probs: Tensor) -> Tensor:
    """Return the probability of the lost token, mean over prompts.

    ``(..., seeds, prompts, 1, tokens)`` to ``(..., seeds)``.
    """
    first = log_probs[..., 0, :]
    where = lost_tokens(testbed)[..., None].expand(*first.shape[:-1], 1)
    return first.gather(-1, where)[..., 0].exp().mean(-1)


def without(testbed: Testbed, nats: Tensor) -> Tensor:
    """The reference's parameters with each prompt's lost token pushed down.

    ``(arms, seeds, parameters)`` for ``(arms,)``.
    """
    theta = testbed.reference.repeat(len(nats), 1, 1)
    logits = theta[..., : testbed.policy.parameters].view(
        len(nats), len(testbed.seeds), testbed.prompts, testbed.tree.tokens
    )
    where = lost_tokens(testbed).expand(len(nats), -1, -1)[..., None]
    logits.scatter_add_(-1, where, -nats[:, None, None, None].expand_as(where).to(torch.float64))
    return theta


def perform(
    options: TrainingOptions, testbed: Testbed, names: Sequence[str], recipe: Recipe
) -> Rows:
    """Return one row a combination, nats lost, seed and evaluation.

    The last ones hold what is known of the whole run.
    """
    testbed = short_testbed(testbed)
    arms = [arm(name, options.beta) for name in names for _ in options.recovery_nats]
    nats = torch.tensor([*options.recovery_nats] * len(names), dtype=torch.float64)
    start = without(testbed, nats)
    world = _RecordingReplicas.of(options, testbed, arms, recipe)
    world.lost, world.norms, world.seen = lost_tokens(testbed), [], []
    with torch.no_grad():
        world.theta[..., : start.shape[-1]] = start
    # As many steps on exact gradients as on samples.
    each = recipe.every * recipe.epochs * recipe.minibatches
    exact = expected.train(
        testbed,
        arms,
        steps=recipe.steps,
        rate=options.learning_rate,
        clip=options.gradient_clip,
        decay=options.decay,
        group=options.group,
        every=each,
        start=start,
        pretraining_weight=options.pretraining_weight,
    )
    rows: Rows = []
    for report, (_, log_probs) in zip(
        ppo.train(world, arms, recipe, _corpus(options, world)), exact, strict=True
    ):
        with torch.no_grad():
            now = {
                "probability": held(testbed, testbed.everywhere(world.policies)),
                "exact_probability": held(testbed, log_probs),
            }
        rows += _rows(arms, nats, testbed, report.update, now, world)
    last = len(arms) * len(testbed.seeds)
    return rows[:-last] + _rows(
        arms,
        nats,
        testbed,
        recipe.updates,
        now | _of_the_run(options, testbed, world, arms, start),
        world,
    )


def _corpus(options: TrainingOptions, world: Replicas) -> Any:
    return lambda update: world.pretraining(update, exact=options.pretraining == "exact")


def _of_the_run(
    options: TrainingOptions,
    testbed: Testbed,
    world: _RecordingReplicas,
    arms: Sequence[PenaltyArm],
    start: Tensor,
) -> dict[str, Tensor]:
    """Return exact values at the start, and statistics of the gradients on the way.

    Each ``(arms, seeds)``.
    """
    shape = (len(arms), len(testbed.seeds))
    beta = torch.tensor([each.beta for each in arms], dtype=torch.float64)
    _, gradient = expected.gradients(
        testbed, arms, start, beta, options.group, pretraining_weight=options.pretraining_weight
    )
    norms, seen = (
        torch.stack(world.norms),
        torch.stack(world.seen[:-1]),
    )  # the last batch is for the report alone
    first = torch.where(seen.any(0), seen.to(torch.float64).argmax(0).to(torch.float64), torch.nan)
    with torch.no_grad():
        q = (
            testbed.everywhere(start)[..., 0, :]
            .gather(-1, lost_tokens(testbed).expand(*shape, -1)[..., None])[..., 0]
            .exp()
        )
    return {
        "reference_probability": held(testbed, testbed.log_p).expand(shape),
        "optimum_probability": held(testbed, testbed.log_optimum(beta)[..., None, :]),
        "start_sampled": 1.0 - (-q).log1p().sum(-1).mul(options.group).exp(),
        "sampled_share": seen.to(torch.float64).mean(0),
        "first_sampled": first,
        "expected_norm": gradient.norm(dim=-1),
        "norm_median": norms.quantile(0.5, dim=0),
        "norm_99": norms.quantile(0.99, dim=0),
        "norm_max": norms.max(0)[0],
    }


def _rows(
    arms: Sequence[PenaltyArm],
    nats: Tensor,
    testbed: Testbed,
    step: int,
    values: Mapping[str, Tensor],
    world: Replicas,
) -> Rows:
    stopped = {place for place, (update, _) in world.optimizer.causes.items() if step > update}
    found = by_replica(values)
    return [
        {"combination": each.name, "lost": float(nats[i]), "seed": k, "step": step}
        | {"status": "diverged" if (i, j) in stopped else "ok"}
        | found[i][j]
        for i, each in enumerate(arms)
        for j, k in enumerate(testbed.seeds)
    ]


def recovery_tables(rows: Sequence[Mapping[str, Any]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return ``recovery``, one row a combination and nats lost, and ``recovery_curves``, the
    token's probability meanwhile.

    Without the replicas that diverged, but for the largest norm, that may be why.
    """
    if not rows:
        return pd.DataFrame(), pd.DataFrame()
    by, means = ["combination", "lost", "step"], ("probability", "exact_probability")
    frame, ends, bands = SeedFrame.of(pd.DataFrame(rows), "combination", "lost"), [], []
    step = frame.every["step"].max()
    for (name, lost), group in frame.groups(("combination", "lost")):
        names = (str(name), str(lost))
        end = group.where(step=step)
        every, last = end.every, end.kept.sort_values("seed")
        row: Row = {
            **described(str(name)),
            "lost": lost,
            "seeds": len(last),
            "updates": step,
        } | end.counts
        row |= {
            each: every[each].mean()
            for each in ("reference_probability", "optimum_probability", "start_sampled")
        }
        row |= {"start_probability": mean(group.first("probability"))}
        for column in (
            "probability",
            "exact_probability",
            "sampled_share",
            "expected_norm",
            "norm_median",
            "norm_99",
        ):
            row |= summary(column, last[column], *names)
        never = last["first_sampled"].isna()
        row |= {"norm_max": every["norm_max"].max(), "never_sampled": mean(never)}
        row |= {
            "first_sampled": math.nan if never.all() else float(np.nanmedian(last["first_sampled"]))
        }
        ends.append(row)
        bands.append(band(group, by, means, quantiles=(0.0, 1.0)))
    curves = pd.concat(bands, ignore_index=True).rename(
        columns={"probability_low": "low", "probability_high": "high"}
    )
    return pd.DataFrame(ends), curves[[*by, *means, "low", "high"]]
