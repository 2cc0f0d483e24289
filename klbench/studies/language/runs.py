"""The parts of every run that trains a language model.

Its place, kept state, the final measurement, a saved policy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from klbench import trackers
from klbench.context import Context
from klbench.lm import trained
from klbench.lm.batching import is_out_of_memory
from klbench.rlhf.language.ppo_world import Completed, Judge, Language, Setting
from klbench.rows import Rows
from klbench.studies.language.options import DpoLmOptions, LanguageOptions, PpoLmOptions
from klbench.studies.language.stage import Place, Stage, described, measures
from klbench.types import Rollouts, RunError

UNTRAINED = "untrained"
"""The name of a policy that has not been trained."""
TEXTS = 3
"""Completions that are kept as texts."""
MOST_CHARACTERS = 200


def slug(combination: str, seed: int) -> str:
    """A name for files: ``k3_loss-seed-0``."""
    return f"{re.sub(r'[^A-Za-z0-9_.]+', '-', combination)}-seed-{seed}"


@dataclass
class Kept:
    """The state of one run so far, in its part file.

    Parameters
    ----------
    state
        What is no tensor, plain enough for JSON: ``rows`` of tables, ``done``, and the loop's own.
    tensors
        Parameters and the optimiser's moments; none once the run is done.
    """

    state: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def found(cls, place: Place, name: str) -> Kept | None:
        """Return the state of a run that was begun before; None if there is none."""
        file = place.part(name)
        stored = None if file is None else trained.kept(file)
        return None if stored is None else cls(stored[1], stored[0])

    def save(self, place: Place, name: str) -> None:
        """Save the state in the run's part file."""
        file = place.part(name)
        if file is not None:
            trained.keep(file, self.tensors, self.state)


@dataclass(frozen=True)
class Job:
    """One run: a combination or a loss by name, a seed, where it is done, and what is kept of it
    from before.
    """

    place: Place
    name: str
    seed: int
    kept: Kept | None

    @classmethod
    def of(cls, place: Place, name: str, seed: int) -> Job:
        """Find what is kept of it."""
        return cls(place, name, seed, Kept.found(place, slug(name, seed)))

    @property
    def slug(self) -> str:
        """Return the run's name in the names of files."""
        return slug(self.name, self.seed)

    @property
    def result(self) -> dict[str, Any] | None:
        """Return the result of the run if it is done, else None."""
        return self.kept.state if self.kept is not None and self.kept.state.get("done") else None

    @property
    def start(self) -> int:
        """The step at which it is continued; -1 where it has not reported yet."""
        return -1 if self.kept is None else self.kept.state["update"]


R = TypeVar("R")


def followed(
    options: PpoLmOptions | DpoLmOptions,
    job: Job,
    learner: Language,
    train: Callable[[int], Iterator[tuple[int, R]]],
    entry: Callable[[R], tuple[dict[str, Any], dict[str, Any]]],
    logged: Sequence[str],
) -> Rows:
    """Train to the end, or until a number fails; a row a report.

    Parameters
    ----------
    train
        From the step to start at to steps and reports.
    entry
        From a report to its row, and to what of the loop's own state is kept beside the learner's.
    logged
        The numbers of a row that trackers are told.
    """
    rows: Rows = []
    if job.kept is not None:
        restore(learner, job.kept)
        rows = job.kept.state["rows"]
    log = tracker(options, job.place, job.slug)
    try:
        for step, report in train(max(job.start, 0)):
            if step > job.start:
                row, state = entry(report)
                log.log(step, {key: row[key] for key in logged})
                rows.append(
                    {"combination": job.name, "seed": job.seed, "step": step}
                    | row
                    | {"status": status(learner)}
                )
                if step < options.updates:
                    snapshot(learner, rows=rows, update=step, **state).save(job.place, job.slug)
            if learner.descent.cause is not None:
                break  # it stays where it was
    finally:
        log.close()
    return rows


def snapshot(world: Language, **state: Any) -> Kept:
    """All that decides how a world goes on.

    Its streams have no state, they are named by the update.
    """
    parameters = {f"parameter {name}": each for name, each in world.named_parameters().items()}
    moments = {f"moment {name}": each for name, each in world.descent.tensors().items()}
    return Kept(
        {"taken": world.descent.taken, "cause": world.descent.cause} | state, parameters | moments
    )


def restore(world: Language, kept: Kept) -> None:
    """Put a world where it was."""
    parameters = {
        k.removeprefix("parameter "): v
        for k, v in kept.tensors.items()
        if k.startswith("parameter ")
    }
    trained.put_back(world.named_parameters(), parameters)
    moments = {
        k.removeprefix("moment "): v for k, v in kept.tensors.items() if k.startswith("moment ")
    }
    world.descent.restore(moments, kept.state["taken"], kept.state["cause"])


def ended(world: Language, done: Completed) -> Tensor:
    """Return which completions came to their end."""
    last = done.token[np.arange(len(done.token)), done.mask.sum(-1) - 1]
    return torch.from_numpy(np.isin(last, world.policy.end))


Estimate = Callable[["Rollouts"], np.ndarray]
"""The function that gives the estimate in use of each completion's KL, ``(n,)``."""


def values(
    world: Language,
    done: Completed,
    rollouts: Rollouts,
    beta: float,
    estimate: Estimate | None,
    gold: Judge | None,
) -> dict[str, np.ndarray]:
    """Return per-completion values. ``reward`` is always the program's score.

    ``proxy`` is the reward model's score, present only if training used one.
    """
    reward = (
        done.reward
        if gold is None
        else gold([world.prompts[i] for i in done.prompt], done.token, done.mask)
    )
    found = measures(reward, rollouts, beta, ended(world, done))
    if gold is not None:
        found["proxy"] = done.reward
    if estimate is not None:
        own = estimate(rollouts)
        found |= {"kl_estimate": own, "estimate_error": own - found["kl"]}
    return found


def seen(
    world: Language, beta: float, estimate: Estimate | None, gold: Judge | None = None
) -> dict[str, float]:
    """Means and standard errors over the last batch."""
    assert world.latest is not None
    done, rollouts = world.latest
    return described(values(world, done, rollouts, beta, estimate, gold), done.prompt)


def measured(
    world: Language,
    options: LanguageOptions,
    beta: float,
    estimate: Estimate | None,
    gold: Judge | None = None,
) -> dict[str, Any]:
    """The policy of now on completions that all runs of a seed draw with the same numbers.

    Statistics, values, some texts.
    """
    prompt = np.resize(np.arange(len(world.prompts)), options.samples)
    done = world.completed(
        prompt, world.stream("evaluation").random((options.samples, options.max_new_tokens))
    )
    with torch.no_grad():
        rollouts = world.rollouts(done.batch)
    found = values(world, done, rollouts, beta, estimate, gold)
    each = {key: found[key].tolist() for key in ("reward", "kl", "proxy") if key in found}
    prompts = ["".join(world.policy.decode(world.prompts[i][-40:])) for i in prompt[:TEXTS]]
    texts = world.policy.texts(done.token[:TEXTS], done.mask[:TEXTS])
    return {
        "statistics": described(found, done.prompt),
        "values": {"prompt": prompt.tolist()} | each,
        "texts": [
            {
                "prompt": asked[-MOST_CHARACTERS:],
                "completion": text[:MOST_CHARACTERS],
                "reward": reward,
                "kl": kl,
            }
            for asked, text, reward, kl in zip(
                prompts, texts, each["reward"], each["kl"], strict=False
            )
        ],
    }


def finish(
    world: Language, options: LanguageOptions, place: Place, name: str, found: Mapping[str, Any]
) -> dict[str, Any]:
    """Save the policy, and what is left of the part: its rows and measurements."""
    state = dict(found) | {"done": True}
    if options.checkpoints and place.folder is not None:
        trained.export(world.policy, place.folder / "checkpoints" / name)
    Kept(state, {}).save(place, name)
    return state


def tracker(options: LanguageOptions, place: Place, name: str) -> trackers.Tracker:
    """The run's tracker."""
    if place.folder is None:
        return trackers.start("none", Path(), name, {})
    return trackers.start(options.tracker, place.folder, name, options.model_dump(mode="json"))


def world(
    stage: Stage, options: PpoLmOptions | DpoLmOptions, place: Place, seed: int, **setting: Any
) -> Language:
    """The policy of one run before training.

    What a seed draws depends on its number, not on the combination.
    """
    settings = Setting(
        options.prompts_each,
        options.group,
        options.max_new_tokens,
        options.learning_rate,
        options.gradient_clip,
        **{"dtype": options.dtype, "batch": options.batch} | setting,
    )
    return Language(
        stage.start,
        stage.reference,
        stage.prompts,
        stage.judge,
        settings,
        (place.seed, "language", seed),
    )


@contextmanager
def enough_memory(completions: int, lower: str) -> Iterator[None]:
    """A step of training is not halved when it does not fit, since that would change it.

    Which settings to lower is said.

    Raises
    ------
    RunError
        Out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or isinstance(error, RunError):
            raise
        raise RunError(
            f"out of memory while training on {completions} completions at a time: lower {lower},"
            " or set dtype=bfloat16"
        ) from None


def status(world: Language) -> str:
    """``ok``, or when and why it was stopped."""
    cause = world.descent.cause
    return "ok" if cause is None else f"diverged at update {cause[0]}: {cause[1]}"


def mapped(
    context: Context, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]
) -> Iterator[Any]:
    """``function(*task)`` for each, in order.

    In workers, shared out among processes, or one by one on a GPU.
    """
    apart = context.device == "cpu" or context.group.size > 1
    results = context.map(function, tasks) if apart else (function(*task) for task in tasks)
    return (result for result in results if result is not None)


def all_of(
    perform: Callable[..., dict[str, Any]],
    options: Any,
    context: Context,
    place: Place,
    names: Sequence[str],
) -> Rows:
    """Return every run of every seed that was finished before Ctrl-C, if it came.

    None in a process that only helps.
    """
    plan = [(name, seed) for seed in range(options.seeds) for name in names]
    found: Rows = []
    try:
        for result in mapped(
            context, perform, [(options, place, name, seed) for name, seed in plan]
        ):
            found.append(result)
            context.progress(
                len(found), len(plan), f"{result['combination']}, seed {result['seed']}"
            )
    except KeyboardInterrupt:
        context.interrupted = True
    return found
