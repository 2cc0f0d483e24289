"""The training of the distillation study.

Students of one start, and where each objective leaves them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from klbench.context import Context
from klbench.metrics.seeds import SeedFrame, by_seed, mean, outcome, paired, summary, verdict
from klbench.rlhf.objectives import Arm, arm
from klbench.rlhf.testbed import Testbed
from klbench.rlhf.testbed.distill_world import Reached, Students, reached, rest, sampled
from klbench.studies.distill.columns import ARM, AT, BESIDE, FINAL, NOWHERE
from klbench.studies.distill.options import DistillOptions
from klbench.threads import one_thread

SEEDS_A_TASK = 4
"""Fixed, and not what the number of workers suggests.

Products of stacks may round by the size of the stack.
"""
ARRIVED, STILL = 1e-6, 1e-3
"""KL to the teacher, in nats, below which a free student is there, and change of it below which
it is at rest elsewhere.
"""
DEFAULT_K = 2
"""Tokens whose mass is told of objectives without a support."""


Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """Some arms trained on some seeds."""

    kind: Literal["sampled", "rest"]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def label(self) -> str:
        """A name that no other task of the run has."""
        return f"{self.kind}-{self.arms[0] if self.kind == 'rest' else 'all'}-{self.seeds[0]}"


def plan(options: DistillOptions) -> list[Task]:
    """Return all tasks, the longest first."""

    def chunks(seeds: int) -> list[tuple[int, ...]]:
        starts = range(0, seeds, SEEDS_A_TASK)
        return [tuple(range(first, min(first + SEEDS_A_TASK, seeds))) for first in starts]

    few = chunks(min(options.rest_seeds, options.seeds))
    return [
        *(Task("sampled", options.training, seeds) for seeds in chunks(options.seeds)),
        *(Task("rest", (name,), seeds) for name in options.training for seeds in few),
    ]


def perform(options: DistillOptions, seed: int, task: Task) -> list[Row]:
    """Return the task's rows: one an arm, seed and evaluation."""
    with one_thread():
        shape = options.testbed
        testbed = Testbed(
            shape.model,
            shape.vocabulary,
            shape.horizon,
            shape.prompts,
            shape.width,
            seed,
            task.seeds,
        )
        arms = [arm(name) for name in task.arms]
        train = _sampled if task.kind == "sampled" else _rest
        return train(options, testbed, arms)


def _sampled(options: DistillOptions, testbed: Testbed, arms: Sequence[Arm]) -> list[Row]:
    students = Students(
        testbed,
        arms,
        group=options.group,
        rate=options.learning_rate,
        clip=options.gradient_clip,
        steps=options.updates if options.decay else None,
    )
    rows = []
    for step, log_q in sampled(students, options.updates, options.every):
        for i, each in enumerate(arms):
            found = reached(testbed, log_q[i : i + 1], each.k or DEFAULT_K)
            rows += [
                row | {"step": step, "status": _status(students, i, j, step)}
                for j, row in enumerate(_rows(testbed, each, found))
            ]
    return rows


def _status(students: Students, i: int, j: int, step: int) -> str:
    update, cause = students.optimizer.causes.get((i, j), (step, ""))
    return f"diverged at update {update}: {cause}" if cause and step > update else "ok"


def _rest(options: DistillOptions, testbed: Testbed, arms: Sequence[Arm]) -> list[Row]:
    (one,) = arms
    before, after = (
        _rows(testbed, one, reached(testbed, log_q, one.k or DEFAULT_K))
        for log_q in rest(testbed, one, options.rest_steps)
    )
    return [
        late | {"moved": abs(late["kl"] - early["kl"])}
        for early, late in zip(before, after, strict=True)
    ]


def _rows(testbed: Testbed, each: Arm, found: Reached) -> list[Row]:
    # An exact KL of 0 may come out as -1e-17.
    values = {name: tensor[0].clamp(min=0.0).tolist() for name, tensor in found._asdict().items()}
    return [
        described(each) | {"seed": seed} | {name: column[j] for name, column in values.items()}
        for j, seed in enumerate(testbed.seeds)
    ]


def described(each: Arm) -> Row:
    """Return the columns that say what is trained."""
    return {
        "arm": each.name,
        "objective": each.objective.name,
        "support": each.owner if each.k else "",
        "k": each.k or DEFAULT_K,
        "prefixes": each.prefixes,
    }


def train(options: DistillOptions, context: Context) -> dict[str, pd.DataFrame]:
    """Return tables ``distill_training``, ``distill_rest`` and ``distill_final``.

    None where nothing is trained.
    """
    if not options.updates:
        return {}
    tasks = plan(options)
    found: dict[str, list[Row]] = {"sampled": [], "rest": []}
    work = {task.label: (options, context.seed, task) for task in tasks}
    try:
        for done, (task, (_, rows)) in enumerate(
            zip(tasks, context.map_kept(perform, work), strict=True), 1
        ):
            found[task.kind] += rows
            context.progress(done, len(tasks), f"training, {task.label}")
    except KeyboardInterrupt:
        context.interrupted = True
    training, at_rest = pd.DataFrame(found["sampled"]), pd.DataFrame(found["rest"])
    if not len(training):
        return {}
    tables = {"distill_training": training, "distill_final": final_table(training, at_rest)}
    return tables | ({"distill_rest": at_rest} if len(at_rest) else {})


def final_table(training: pd.DataFrame, at_rest: pd.DataFrame) -> pd.DataFrame:
    """Return one row an arm.

    Where training ended, beside the first arm's end, and where free students rest.
    """
    frame = SeedFrame.of(training, "arm")
    names = list(dict.fromkeys(training["arm"]))
    first = names[0]
    reference = frame.where(arm=first).last("kl")
    rows = []
    for name in names:
        mine = frame.where(arm=name)
        kl, start = mine.last("kl"), mine.first("kl")
        row = {column: mine.every[column].iloc[0] for column in ARM}
        row |= mine.counts | {"start_kl": mean(start.to_numpy())}
        row |= summary("kl", kl.to_numpy(), name) | paired("difference", kl, reference, name)
        row |= summary("kl_pq", mine.last("kl_pq").to_numpy(), name)
        row |= _mass("", str(row["support"]), mine.last)
        words = (f"nearer than {first}", f"not told from {first}", f"farther than {first}")
        found = "the comparison" if name == first else verdict(row, "difference", *words)
        row["outcome"] = outcome(row, found)
        rows.append(row | _rested(at_rest, name, str(row["support"])))
    return FINAL.frame(rows)


def _mass(stem: str, owner: str, last: Callable[[str], pd.Series[float]]) -> Row:
    """Return the student's mass on its support, the teacher's on its own, and what the student
    lacks.
    """
    own, theirs = last("mass" if owner == "teacher" else "own_mass"), last("teacher_mass")
    return {
        f"{stem}mass": mean(own.to_numpy()),
        f"{stem}teacher_mass": mean(theirs.to_numpy()),
        **{
            key: value
            for key, value in paired(f"{stem}mass_lost", theirs, own, owner).items()
            if not key.endswith("_seeds")
        },
    }


def _rested(at_rest: pd.DataFrame, name: str, owner: str) -> Row:
    rows = at_rest[at_rest["arm"] == name] if len(at_rest) else at_rest
    if not len(rows):
        return {"rests": ""}
    kl = by_seed(rows, "kl")
    arrived, moved = bool((kl <= ARRIVED).all()), float(rows["moved"].max())
    return {
        **summary("rest_kl", kl.to_numpy(), name),
        **_mass("rest_", owner, lambda column: by_seed(rows, column)),
        "rest_moved": moved,
        "rests": AT if arrived else BESIDE if moved <= STILL else NOWHERE,
    }
