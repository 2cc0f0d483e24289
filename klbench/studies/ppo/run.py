"""The run of the training study.

Policies trained with each combination, held against the exact optimum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from klbench import gradients
from klbench.context import Context
from klbench.metrics.seeds import SeedFrame, band
from klbench.rlhf.options import compared_with
from klbench.rlhf.penalty import arm
from klbench.rlhf.rows import described, training_table
from klbench.rlhf.testbed import Testbed, expected, fixed_points
from klbench.rows import Rows
from klbench.schema import Tables
from klbench.studies.gradient.run import combinations_table
from klbench.studies.ppo import tables, tasks
from klbench.studies.ppo.fixed_points import fixed_points_table
from klbench.studies.ppo.options import NONE, TrainingOptions
from klbench.studies.ppo.recovery import recovery_tables
from klbench.study import Summary
from klbench.threads import one_thread


def run(options: TrainingOptions, context: Context) -> Tables:
    """Return tables ``training``, ``final``, ``curves``, ``frontier``, ``matched``,
    ``noise_free``, ``fixed_points`` ...
    """
    names = options.combinations
    arms = [arm(name, options.beta) for name in names]
    testbed = Testbed.of(options, context.seed, (0,))
    with one_thread():
        alike = expected.alike(testbed, arms, options.group)
        points = fixed_points.which(testbed, arms, options.group)
    plan = tasks.plan(options, alike, [point for point, _ in points])
    found: dict[str, Rows] = {
        "sampled": [],
        "frontier": [],
        "noise_free": [],
        "free": [],
        "recovery": [],
    }
    try:
        work = {task.label: (options, context.seed, task) for task in plan}
        for done, (task, (_, rows)) in enumerate(
            zip(plan, context.map_kept(tasks.perform, work), strict=True), 1
        ):
            found[task.kind] += rows
            context.progress(
                done,
                len(plan),
                f"{task.kind.replace('_', '-')} training, seeds {task.seeds[0]} to"
                f" {task.seeds[-1]}",
            )
    except KeyboardInterrupt:
        context.interrupted = True
    if not found["sampled"]:
        return {}
    firsts = {name: names[i] for name, i in zip(names, alike, strict=True)}
    with one_thread():
        return _tables(options, context.seed, found, firsts, dict(zip(names, points, strict=True)))


def _tables(
    options: TrainingOptions,
    seed: int,
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    alike: Mapping[str, str],
    points: Mapping[str, tuple[str, float]],
) -> Tables:
    sampled, others = (pd.DataFrame(found[kind]) for kind in ("sampled", "frontier"))
    rows = (
        {"algorithm": options.algorithm, **described(row["combination"]), **row}
        for row in found["sampled"]
    )
    training = training_table(rows).drop(columns="frontier_reward")
    noise_free = tables.noise_free_table(found["noise_free"], alike)
    free = tables.noise_free_table(found["free"], alike)
    frontier, matched = tables.frontier_tables(sampled, others, options)
    recovery, recovery_curves = recovery_tables(found["recovery"])
    result = {
        "training": training,
        "final": tables.final_table(
            training, options, {name: point for name, (point, _) in points.items()}
        ),
        "curves": band(
            SeedFrame.of(training, "combination"),
            ("combination", "step"),
            ("regret", "kl", "kl_estimate", "reward"),
        ),
        "frontier": frontier,
        "matched": matched,
        "noise_free": noise_free,
        "fixed_points": fixed_points_table(options, seed, points, training, noise_free, free),
        "recovery": recovery,
        "recovery_curves": recovery_curves,
        "combinations": combinations_table(
            [gradients.get(name) for name in options.combinations if name != NONE]
        ),
    }
    return {name: table for name, table in result.items() if len(table)}


def summarize(results: Tables) -> list[Summary]:
    """Return the table for the terminal: where every combination ended."""
    table = results["final"]
    reference = compared_with(table["combination"].tolist())
    first = table.iloc[0]
    return [
        Summary.of(
            f"Regret J* - J after training, mean of {first['seeds']} seeds (untrained:"
            f" {first['start_regret']:.3f})",
            (
                "combination",
                ">regret",
                f">against {reference}",
                ">95 % interval",
                ">KL",
                "fixed point",
                "outcome",
            ),
            (
                "{combination}",
                "{regret:.4f}",
                "{difference:+.4f}",
                "{difference_low:+.4f} to {difference_high:+.4f}",
                "{kl:.2f}",
                "{fixed_point}",
                "{outcome}",
            ),
            table.sort_values("regret").replace({"fixed_point": {"": "none predicted"}}),
        )
    ]
