"""Preferences between completions, and the reward models that learn from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from klbench import streams
from klbench.context import Context
from klbench.lm import trained
from klbench.lm.scalar import Scalar
from klbench.rlhf.language import dpo_world
from klbench.rlhf.language.dpo_world import Preferences
from klbench.rlhf.language.reward_world import Rater, judging
from klbench.rlhf.reward_model import train
from klbench.rows import Rows
from klbench.studies.language.options import DpoLmOptions, PpoLmOptions
from klbench.studies.language.runs import enough_memory, mapped
from klbench.studies.language.stage import Place, Stage, stage
from klbench.types import ConfigError, RunError

REPORTS = 10
"""The steps between two looks at a reward model's losses; it is kept where they are least."""


def preferences(
    options: PpoLmOptions | DpoLmOptions, place: Place, shared: Stage, seed: int
) -> Preferences:
    """The preferences of a seed, the same for all that learn from them.

    Those of a file are the same for all seeds.
    """
    if options.preferences:
        return dpo_world.load(options.preferences, shared.start)
    return dpo_world.sampled(
        shared.reference,
        shared.prompts,
        shared.judge,
        options.ranked_pairs,
        scale=options.label_scale,
        tokens=options.max_new_tokens,
        batch=options.batch,
        dtype=options.dtype,
        stream=streams.generator(place.seed, "language", seed, "pairs"),
    )


def check(options: PpoLmOptions | DpoLmOptions, shared: Stage) -> None:
    """Check the file of preferences before anything is trained.

    Raises
    ------
    ConfigError
        The file, its line and key; or there is one pair, none of which could be held out.
    """
    if not options.preferences:
        return
    found = dpo_world.load(options.preferences, shared.start)
    if len(found) < 2:
        raise ConfigError(f"{options.preferences}: expected at least 2 pairs, got 1")
    pairs_only = (
        [arm.name for arm in options.arms if arm.loss != "kto"]
        if isinstance(options, DpoLmOptions)
        else ["a reward model"]
    )
    if not found.paired and pairs_only:
        raise ConfigError(
            f"{options.preferences}: each answer has a label of its own, from which KTO alone can"
            f" learn, and not {', '.join(pairs_only)}; set divergences=[] smoothings=[]"
            " losses=[kto]"
        )


def learned(options: PpoLmOptions, context: Context, place: Place) -> Rows:
    """Train the reward models of all seeds; how each went, a row a report."""
    found: Rows = []
    try:
        for done, rows in enumerate(
            mapped(context, learn, [(options, place, seed) for seed in range(options.seeds)]), 1
        ):
            found += rows
            context.progress(done, options.seeds, "reward models")
    except KeyboardInterrupt:
        context.interrupted = True
    return found


def learn(options: PpoLmOptions, place: Place, seed: int) -> Rows:
    """Train the reward model of a seed, unless that was done before; its losses."""
    shared = stage(options, place)
    with shared.threads:
        rows: Rows = _rater(options, place, shared, seed)[1]["rows"]
    return rows


def paid_by_model(options: PpoLmOptions, place: Place, shared: Stage, seed: int) -> Stage:
    """The same with the seed's reward model as its judge."""
    model, state = _rater(options, place, shared, seed)
    judge = judging(
        model,
        level=state["level"],
        scale=options.label_scale,
        batch=options.batch,
        dtype=options.dtype,
    )
    return replace(shared, judge=judge, gold=shared.judge)


def _rater(
    options: PpoLmOptions, place: Place, shared: Stage, seed: int
) -> tuple[Scalar, dict[str, Any]]:
    """Model, and what is known of it: ``rows`` and ``level``; kept while the run is unfinished."""
    name = f"reward-model-seed-{seed}"
    file = place.part(name)
    stored = None if file is None else trained.kept(file)
    if stored is not None:
        model = Scalar(shared.start)
        trained.put_back(model.named_parameters(), stored[0])
        return model, stored[1]
    model, state = _trained(options, place, shared, seed)
    if place.folder is not None and file is not None:
        if options.checkpoints:
            trained.export(
                replace(shared.start, model=model.model), place.folder / "checkpoints" / name
            )
        trained.keep(file, model.named_parameters(), state)
    return model, state


def _trained(
    options: PpoLmOptions, place: Place, shared: Stage, seed: int
) -> tuple[Scalar, dict[str, Any]]:
    rater = Rater(
        shared.start,
        preferences(options, place, shared, seed),
        each=options.pairs_each,
        batch=options.batch,
        rate=options.reward_rate,
        steps=options.reward_steps,
        dtype=options.dtype,
        names=(place.seed, "language", seed, "reward model"),
    )
    reports = train(
        rater, steps=options.reward_steps, every=max(1, options.reward_steps // REPORTS)
    )
    with enough_memory(2 * options.pairs_each, "pairs_each or max_new_tokens"):
        rows = [
            {"seed": seed} | {key: float(value) for key, value in vars(report).items()}
            for report in reports
        ]
    if rater.descent.cause is not None:
        step, why = rater.descent.cause
        raise RunError(
            f"the reward model of seed {seed} diverged at step {step}: {why}; try a smaller"
            " reward_rate"
        )
    return rater.model, {"rows": rows, "level": rater.back()}
