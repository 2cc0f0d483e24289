"""One run of DPO on a language model: one loss, one seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from klbench.rlhf.dpo import DpoReport, train
from klbench.rlhf.language.dpo_world import Preferring
from klbench.rlhf.language.ppo_world import Language
from klbench.rlhf.penalty import arm, estimates
from klbench.rows import Row, Rows
from klbench.studies.language import runs
from klbench.studies.language.options import DpoLmOptions
from klbench.studies.language.preferences import preferences
from klbench.studies.language.runs import UNTRAINED
from klbench.studies.language.stage import Place, Stage, stage
from klbench.types import Rollouts

LOGGED = ("loss", "accuracy", "margin", "reward", "kl", "k1", "k2", "k3", "objective", "tokens")
"""The columns that trackers log."""


def perform(options: DpoLmOptions, place: Place, name: str, seed: int) -> Row:
    """Return the run's rows, its final measurement and its texts.

    Continued from its part if there is one.
    """
    job = runs.Job.of(place, name, seed)
    if job.result is not None:
        return job.result
    shared = stage(options, place)
    with shared.threads:
        learner = runs.world(
            shared, options, place, seed, steps=options.updates if options.decay else None
        )
        rows = [] if name == UNTRAINED else _trained(options, job, shared, learner)
        found = {"combination": name, "seed": seed, "rows": rows} | runs.measured(
            learner, options, options.beta, k1
        )
        return runs.finish(
            learner, options, place, job.slug, found | {"status": runs.status(learner)}
        )


def _trained(options: DpoLmOptions, job: runs.Job, shared: Stage, learner: Language) -> Rows:
    """The rows of a loss, each from completions of the policy of its step."""
    (used,) = [each for each in options.arms if each.name == job.name]

    def reports(start: int) -> Iterator[tuple[int, DpoReport]]:
        world = Preferring(
            learner, preferences(options, job.place, shared, job.seed), options.pairs_each
        )
        for report in train(world, [used], steps=options.updates, every=options.every, start=start):
            yield report.step, report

    def entry(report: DpoReport) -> tuple[dict[str, Any], Row]:
        with torch.no_grad():
            learner.rollouts(learner.sample(report.step, 0))
        numbers = {"loss": report.loss, "accuracy": report.accuracy, "margin": report.margin}
        return runs.seen(learner, options.beta, k1) | {
            name: float(each) for name, each in numbers.items()
        }, {}

    with runs.enough_memory(2 * options.pairs_each, "pairs_each or max_new_tokens"):
        return runs.followed(options, job, learner, reports, entry, LOGGED)


def k1(rollouts: Rollouts) -> np.ndarray:
    """Return k1 of each completion."""
    found: np.ndarray = estimates([arm("none", 1.0)], rollouts)[0][0, 0].numpy()
    return found
