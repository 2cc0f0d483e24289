"""The work of one process of the training study: some seeds, all arms of one kind of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from klbench.rlhf.penalty import PenaltyArm, arm
from klbench.rlhf.ppo import PpoReport, Recipe, train
from klbench.rlhf.rows import by_replica
from klbench.rlhf.testbed import Exact, Testbed, expected
from klbench.rlhf.testbed.ppo_world import Replicas
from klbench.rows import Row, Rows
from klbench.studies.ppo import recovery
from klbench.studies.ppo.options import TrainingOptions
from klbench.threads import one_thread

SEEDS_A_TASK = 4
"""Fixed, and not what the number of workers suggests.

Products of stacks may round by the size of the stack.
"""
FREE_STEPS, MOST_FREE_STEPS = 300, 3000
"""The steps of free logits, up to 1 nat each, and the most of them.

The slowest combination needs the first number to exchange one preferred sequence for another. It
gets up to the second if its gradient has not vanished by then.
"""

Kind = Literal["sampled", "frontier", "noise_free", "free", "recovery"]


@dataclass(frozen=True)
class Task:
    """One kind of training, its arms by name and weight, and numbers of seeds."""

    kind: Kind
    names: tuple[str, ...]
    betas: tuple[float, ...]
    seeds: tuple[int, ...]

    @property
    def label(self) -> str:
        """A name that no other task of the run has."""
        return f"{self.kind}-seeds-{self.seeds[0]}-{self.seeds[-1]}"

    @property
    def arms(self) -> list[PenaltyArm]:
        """The combinations, each with every weight."""
        return [arm(name, beta) for name in self.names for beta in self.betas]


def perform(options: TrainingOptions, seed: int, task: Task) -> Rows:
    """The task's rows: one an arm, seed and evaluation."""
    with one_thread():
        testbed = Testbed.of(options, seed, task.seeds)
        train = {
            "sampled": _sampled,
            "frontier": _sampled,
            "noise_free": _expected,
            "free": _free,
            "recovery": _recovery,
        }[task.kind]
        return train(options, testbed, task)


def _recovery(options: TrainingOptions, testbed: Testbed, task: Task) -> Rows:
    return recovery.perform(options, testbed, task.names, Recipe.of(options))


def _sampled(options: TrainingOptions, testbed: Testbed, task: Task) -> Rows:
    recipe = Recipe.of(options, every=options.every if task.kind == "sampled" else options.updates)
    world = Replicas.of(options, testbed, task.arms, recipe)
    beta = torch.tensor([each.beta for each in task.arms], dtype=torch.float64)
    rows: Rows = []
    corpus = partial(world.pretraining, exact=options.pretraining == "exact")
    for report in train(world, task.arms, recipe, corpus):
        with torch.no_grad():
            exact = testbed.exact(testbed.everywhere(world.policies), beta)
            best = (
                testbed.frontier(exact.kl)
                if report.update == options.updates
                else torch.full_like(exact.kl, torch.nan)
            )
        rows += _rows(task, report.update, exact, {"frontier_reward": best} | _seen(report))
    return [row | _status(world, task, row) for row in rows]


def _seen(report: PpoReport) -> dict[str, Tensor]:
    names = (
        "kl_estimate",
        "kl_estimate_se",
        "sampled_reward",
        "clip_fraction",
        "clamp_fraction",
        "loss_beta",
    )
    return {name: getattr(report, name) for name in names} | {"beta_used": report.beta}


def _status(world: Replicas, task: Task, row: Row) -> dict[str, str]:
    place = (row.pop("arm"), task.seeds.index(row["seed"]))
    update, cause = world.optimizer.causes.get(place, (row["step"], ""))
    stopped = cause and row["step"] > update
    return {"status": f"diverged at update {update}: {cause}" if stopped else "ok"}


def _expected(options: TrainingOptions, testbed: Testbed, task: Task) -> Rows:
    # One step an update: what more epochs are for, to use a batch again, does not arise.
    path = expected.train(
        testbed,
        task.arms,
        steps=options.updates,
        rate=options.learning_rate,
        clip=options.gradient_clip,
        decay=options.decay,
        group=options.group,
        every=options.every,
        pretraining_weight=options.pretraining_weight,
    )
    return [row for step, log_probs in path for row in _exact(testbed, task, step, log_probs)]


def _free(options: TrainingOptions, testbed: Testbed, task: Task) -> Rows:
    found = expected.settle(
        testbed,
        task.arms,
        least=FREE_STEPS,
        most=MOST_FREE_STEPS,
        group=options.group,
        pretraining_weight=options.pretraining_weight,
    )
    return _exact(
        testbed, task, FREE_STEPS, found.log_probs, residual=found.residual, steps_taken=found.steps
    )


def _exact(testbed: Testbed, task: Task, step: int, log_probs: Tensor, **more: Tensor) -> Rows:
    beta = torch.tensor([each.beta for each in task.arms], dtype=torch.float64)
    rows = _rows(task, step, testbed.exact(log_probs, beta), more)
    return [{key: value for key, value in row.items() if key != "arm"} for row in rows]


def _rows(task: Task, step: int, exact: Exact, more: dict[str, Tensor]) -> Rows:
    values = exact._asdict() | more
    found = by_replica(values)
    return [
        {"arm": i, "combination": each.name, "beta": each.beta, "seed": k, "step": step}
        | found[i][j]
        for i, each in enumerate(task.arms)
        for j, k in enumerate(task.seeds)
    ]


def chunks(seeds: int, most: int = SEEDS_A_TASK) -> list[tuple[int, ...]]:
    """Return the numbers of seeds, a task each."""
    return [tuple(range(first, min(first + most, seeds))) for first in range(0, seeds, most)]


def plan(options: TrainingOptions, alike: Sequence[int], points: Sequence[str]) -> list[Task]:
    """Return all tasks, the longest first.

    Combinations with one expected gradient (``alike``) follow it once.

    Free logits are let go to where they rest for those alone that have a fixed point, ``""`` being
    none.
    """
    names = options.combinations
    firsts = tuple(names[i] for i in sorted(set(alike)))
    one = (options.beta,)
    others = tuple(beta for beta in sorted(set(options.betas)) if beta != options.beta)
    result = [Task("sampled", names, one, seeds) for seeds in chunks(options.seeds)]
    if options.frontier and others:
        few = min(options.frontier_seeds, options.seeds)
        result += [Task("frontier", options.frontier, others, seeds) for seeds in chunks(few)]
    if options.recovery and options.recovery_nats:
        # Of one token each: what a step costs hardly depends on how many there are.
        many = chunks(options.seeds, 4 * SEEDS_A_TASK)
        result += [Task("recovery", options.recovery, one, seeds) for seeds in many]
    few = min(options.noise_free_seeds, options.seeds)
    result += [Task("noise_free", firsts, one, seeds) for seeds in chunks(few)]
    resting = tuple(names[i] for i in sorted(set(alike)) if points[i])
    return result + [Task("free", resting, one, seeds) for seeds in chunks(few) if resting]
