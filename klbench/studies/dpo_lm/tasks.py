"""One run of DPO on a language model: one loss, one seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from klbench.rlhf.penalty import arm, estimates
from klbench.studies.language import runs
from klbench.studies.language.preferences import preferences
from klbench.studies.language.runs import UNTRAINED, Kept
from klbench.studies.language.stage import Place, stage

if TYPE_CHECKING:
    import numpy as np

    from klbench.rlhf.dpo import DpoArm
    from klbench.rlhf.language.dpo_world import Preferences
    from klbench.rlhf.language.ppo_world import Language
    from klbench.studies.language.options import DpoLmOptions
    from klbench.trackers import Tracker
    from klbench.types import Rollouts

LOGGED = ("loss", "accuracy", "margin", "reward", "kl", "k1", "k2", "k3", "objective", "tokens")
"""What trackers are told."""


def perform(options: DpoLmOptions, place: Place, name: str, seed: int) -> dict[str, Any]:
    """Its rows, its final measurement, its texts; continued from its part where there is one."""
    kept = Kept.found(place, runs.slug(name, seed))
    if kept is not None and kept.state.get("done"):
        return kept.state
    shared = stage(options, place)
    with shared.threads:
        learner = runs.world(
            shared, options, place, seed, prompts_each=options.prompts_each, group=options.group, rate=options.learning_rate,
            clip=options.gradient_clip, steps=options.updates if options.decay else None,
        )  # fmt: skip
        rows: list[dict[str, Any]] = []
        if name != UNTRAINED:
            log = runs.tracker(options, place, runs.slug(name, seed))
            try:
                (used,) = [each for each in options.arms if each.name == name]
                with runs.enough_memory(2 * options.pairs_each, "pairs_each or max_new_tokens"):
                    rows = _followed(options, place, learner, used, preferences(options, place, shared, seed), seed, kept, log)
            finally:
                log.close()
        found = {"combination": name, "seed": seed, "rows": rows} | runs.measured(learner, options, options.beta, k1)
        return runs.finish(learner, options, place, runs.slug(name, seed), found | {"status": runs.status(learner)})


def k1(rollouts: Rollouts) -> np.ndarray:
    """What k1 says of each completion."""
    found: np.ndarray = estimates([arm("none", 1.0)], rollouts)[0][0, 0].numpy()
    return found


def _followed(
    options: DpoLmOptions, place: Place, learner: Language, used: DpoArm, preferred: Preferences, seed: int, kept: Kept | None,
    log: Tracker,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train to the end, or until a number fails; a row a report, from completions of the policy of that step."""
    import torch

    from klbench.rlhf.dpo import train
    from klbench.rlhf.language.dpo_world import Preferring

    rows: list[dict[str, Any]] = []
    start = -1
    if kept is not None:
        runs.restore(learner, kept)
        rows, start = kept.state["rows"], kept.state["update"]
    world = Preferring(learner, preferred, options.pairs_each)
    for report in train(world, [used], steps=options.updates, every=options.every, start=max(start, 0)):
        if report.step > start:
            with torch.no_grad():
                learner.rollouts(learner.sample(report.step, 0))
            row = runs.seen(learner, options.beta, k1)
            row |= {name: float(getattr(report, name)) for name in ("loss", "accuracy", "margin")}
            log.log(report.step, {key: row[key] for key in LOGGED})
            rows.append({"combination": used.name, "seed": seed, "step": report.step} | row | {"status": runs.status(learner)})
            if report.step < options.updates:
                runs.snapshot(learner, rows=rows, update=report.step).save(place, runs.slug(used.name, seed))
        if learner.descent.cause is not None:
            break  # it stays where it was
    return rows
