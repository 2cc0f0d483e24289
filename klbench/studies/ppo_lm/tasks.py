"""One run of PPO on a language model: one combination, one seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from klbench.rlhf.language import sft
from klbench.rlhf.language.ppo_world import Language
from klbench.rlhf.penalty import arm, estimates
from klbench.rlhf.ppo import PpoReport, Recipe, train
from klbench.rows import Row, Rows
from klbench.studies.language.options import PpoLmOptions
from klbench.studies.language.preferences import paid_by_model
from klbench.studies.language.runs import (
    UNTRAINED,
    Job,
    enough_memory,
    finish,
    followed,
    measured,
    seen,
    status,
    world,
)
from klbench.studies.language.stage import Place, Stage, stage
from klbench.types import Rollouts

LOGGED = ("reward", "kl", "kl_estimate", "objective", "tokens", "clip_fraction", "beta_used")
"""The columns that trackers log."""


def perform(options: PpoLmOptions, place: Place, name: str, seed: int) -> Row:
    """Return the run's rows, its final measurement and its texts.

    Continued from its part if there is one.
    """
    job = Job.of(place, name, seed)
    if job.result is not None:
        return job.result
    shared = stage(options, place)
    with shared.threads:
        if options.reward_model:
            shared = paid_by_model(options, place, shared, seed)
        return _performed(options, job, shared)


def _performed(options: PpoLmOptions, job: Job, shared: Stage) -> Row:
    recipe = Recipe.of(options)
    steps = recipe.steps if options.decay else None
    used = arm("none" if job.name == UNTRAINED else job.name, options.beta)
    extra = {"steps": steps, "critic": recipe.critic, "exact": used.exact}
    learner = world(shared, options, job.place, job.seed, **extra)

    def estimate(rollouts: Rollouts) -> np.ndarray:
        found: np.ndarray = estimates([used], rollouts, options.clamp)[0][0, 0].numpy()
        return found

    def reports(start: int) -> Iterator[tuple[int, PpoReport]]:
        beta = (
            None
            if job.kept is None
            else torch.tensor([[job.kept.state["beta"]]], dtype=torch.float64)
        )
        for report in train(learner, [used], recipe, _pretraining(options, learner), start, beta):
            yield report.update, report

    def entry(report: PpoReport) -> tuple[dict[str, Any], Row]:
        numbers = {
            "beta_used": report.beta,
            "clip_fraction": report.clip_fraction,
            "clamp_fraction": report.clamp_fraction,
        }
        row = seen(learner, options.beta, estimate, shared.gold) | {
            key: float(value) for key, value in numbers.items()
        }
        return row, {"beta": row["beta_used"]}

    rows: Rows = []
    if job.name != UNTRAINED:
        lower = "prompts_each, group or max_new_tokens, raise minibatches"
        with enough_memory(options.prompts_each * options.group // options.minibatches, lower):
            rows = followed(options, job, learner, reports, entry, LOGGED)
    found = {"combination": job.name, "seed": job.seed, "rows": rows}
    found |= measured(learner, options, options.beta, estimate, shared.gold)
    return finish(learner, options, job.place, job.slug, found | {"status": status(learner)})


def _pretraining(options: PpoLmOptions, learner: Language) -> Callable[[int], Tensor] | None:
    """The mean log-probability of an update's examples, as the loop takes it."""
    if not options.pretraining:
        return None
    examples = sft.load(options.pretraining, learner.policy)
    return lambda update: sft.mean_log_prob(learner, examples, update)[None, None]
