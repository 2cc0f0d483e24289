"""The run of the reward-model study.

True reward lost by making a learned one large, by the number of ranked pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from klbench.context import Context
from klbench.rlhf.rows import described, training_table
from klbench.schema import Tables
from klbench.studies.ppo.tasks import chunks
from klbench.studies.reward_model import tables, tasks
from klbench.studies.reward_model.options import RewardModelOptions
from klbench.study import Summary


def run(options: RewardModelOptions, context: Context) -> Tables:
    """Return tables ``overoptimisation``, ``peaks``, ``equal_kl``, ``reward_models``,
    ``calibration``, ``training`` ...
    """
    found: tasks.Found = {"models": [], "calibration": [], "paths": [], "training": []}
    plan = chunks(options.seeds)
    try:
        work = {f"seeds-{seeds[0]}-{seeds[-1]}": (options, context.seed, seeds) for seeds in plan}
        for done, (_, rows) in enumerate(context.map_kept(tasks.perform, work), 1):
            for name in found:
                found[name] += rows[name]
            context.progress(done, len(plan), "reward models, and policies that make them large")
    except KeyboardInterrupt:
        context.interrupted = True
    if not found["paths"]:
        return {}
    training = training_table(
        {"algorithm": options.algorithm, **described(row["combination"]), **row}
        for row in found["training"]
    )
    paths = tables.paths_frame(found["paths"], training)
    exact = paths.every[
        paths.every["method"] != "ppo"
    ]  # training has its own table, each evaluation
    result = {
        "overoptimisation": tables.curves_table(paths),
        "overoptimisation_by_seed": exact.drop(columns="status"),
        "peaks": tables.peaks_table(paths),
        "equal_kl": tables.equal_kl_table(paths),
        "reward_models": tables.models_table(found["models"]),
        "reward_models_by_seed": pd.DataFrame(found["models"]),
        "calibration": tables.calibration_table(found["calibration"]),
        "training": training,
    }
    return {name: table for name, table in result.items() if len(table)}


def summarize(results: Tables) -> Sequence[Summary]:
    """Return the tables for the terminal.

    Quality of the models, and where the true reward peaks.
    """
    peaks = results["peaks"]
    by = peaks["combination"].where(peaks["combination"] != "", peaks["method"])
    return [
        Summary.of(
            "Reward models",
            ("proxy", ">accuracy", ">at best", ">true order", ">correlation", ">miscalibration"),
            (
                *("{proxy}", "{accuracy:.3f}", "{best_accuracy:.3f}", "{order:.3f}"),
                *("{correlation:.3f}", "{calibration_error:.3f}"),
            ),
            results["reward_models"],
        ),
        Summary.of(
            "True reward gained",
            ("by", "of", ">at its peak", ">at KL", ">at the end", ">at KL", ">lost", ">95 %"),
            (
                *("{by}", "{proxy}", "{peak_gold:.3f}", "{peak_kl:.2f}", "{end_gold:.3f}"),
                *("{end_kl:.2f}", "{lost:.3f}", "{lost_low:.3f} to {lost_high:.3f}"),
            ),
            peaks.assign(by=by),
        ),
    ]
