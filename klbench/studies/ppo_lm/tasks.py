"""One run of PPO on a language model: one combination, one seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from klbench.rlhf.penalty import PenaltyArm, arm, estimates
from klbench.studies.language.preferences import paid_by_model
from klbench.studies.language.runs import (
    UNTRAINED,
    Kept,
    enough_memory,
    finish,
    measured,
    restore,
    seen,
    slug,
    snapshot,
    status,
    tracker,
    world,
)
from klbench.studies.language.stage import Place, Stage, stage

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from klbench.rlhf.language.ppo_world import Judge, Language
    from klbench.rlhf.ppo import Recipe
    from klbench.studies.language.options import PpoLmOptions
    from klbench.types import Rollouts

LOGGED = ("reward", "kl", "kl_estimate", "objective", "tokens", "clip_fraction", "beta_used")
"""What trackers are told."""


def perform(options: PpoLmOptions, place: Place, name: str, seed: int) -> dict[str, Any]:
    """Its rows, its final measurement, its texts; continued from its part where there is one."""
    kept = Kept.found(place, slug(name, seed))
    if kept is not None and kept.state.get("done"):
        return kept.state
    shared = stage(options, place)
    with shared.threads:
        if options.reward_model:
            shared = paid_by_model(options, place, shared, seed)
        return _performed(options, place, shared, name, seed, kept)


def _performed(options: PpoLmOptions, place: Place, shared: Stage, name: str, seed: int, kept: Kept | None) -> dict[str, Any]:
    from klbench.rlhf.ppo import Recipe

    recipe = Recipe(**{each: getattr(options, each) for each in Recipe.__dataclass_fields__ if each != "lag"})
    steps = recipe.updates * recipe.epochs * recipe.minibatches if options.decay else None
    learner = world(
        shared, options, place, seed, prompts_each=options.prompts_each, group=options.group, rate=options.learning_rate,
        clip=options.gradient_clip, steps=steps, critic=recipe.critic,
    )  # fmt: skip
    used = arm("none" if name == UNTRAINED else name, options.beta)

    def estimate(rollouts: Rollouts) -> np.ndarray:
        found: np.ndarray = estimates([used], rollouts, options.clamp)[0][0, 0].numpy()
        return found

    rows: list[dict[str, Any]] = []
    if name != UNTRAINED:
        log = tracker(options, place, slug(name, seed))
        try:
            lower = "prompts_each, group or max_new_tokens, raise minibatches"
            with enough_memory(options.prompts_each * options.group // options.minibatches, lower):
                rows = _followed(options, place, learner, used, recipe, estimate, shared.gold, seed, kept, log.log)
        finally:
            log.close()
    found = {"combination": name, "seed": seed, "rows": rows} | measured(learner, options, options.beta, estimate, shared.gold)
    return finish(learner, options, place, slug(name, seed), found | {"status": status(learner)})


def _followed(
    options: PpoLmOptions,
    place: Place,
    learner: Language,
    used: PenaltyArm,
    recipe: Recipe,
    estimate: Callable[[Rollouts], np.ndarray],
    gold: Judge | None,
    seed: int,
    kept: Kept | None,
    log: Callable[[int, dict[str, float]], None],
) -> list[dict[str, Any]]:
    """Train to the end, or until a number fails; a row a report."""
    import torch

    from klbench.rlhf.ppo import train

    rows: list[dict[str, Any]] = []
    start, beta = -1, None
    if kept is not None:
        restore(learner, kept)
        rows, start = kept.state["rows"], kept.state["update"]
        beta = torch.tensor([[kept.state["beta"]]], dtype=torch.float64)
    for report in train(learner, [used], recipe, _pretraining(options, learner), max(start, 0), beta):
        if report.update > start:
            numbers = {"beta_used": report.beta, "clip_fraction": report.clip_fraction, "clamp_fraction": report.clamp_fraction}
            row = seen(learner, options.beta, estimate, gold) | {key: float(value) for key, value in numbers.items()}
            log(report.update, {key: row[key] for key in LOGGED})
            rows.append({"combination": used.name, "seed": seed, "step": report.update} | row | {"status": status(learner)})
            if report.update < recipe.updates:
                snapshot(learner, rows=rows, update=report.update, beta=float(report.beta)).save(place, slug(used.name, seed))
        if learner.descent.cause is not None:
            break  # it stays where it was
    return rows


def _pretraining(options: PpoLmOptions, learner: Language) -> Callable[[int], Tensor] | None:
    """The mean log-probability of an update's examples, as the loop takes it."""
    if not options.pretraining:
        return None
    from klbench.rlhf.language import sft

    examples = sft.load(options.pretraining, learner.policy)
    return lambda update: sft.mean_log_prob(learner, examples, update)[None, None]
