"""The table of predicted fixed points beside what training reached."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from klbench.metrics.seeds import SeedFrame, mean, share, summary
from klbench.rlhf.rows import described
from klbench.rlhf.testbed import Testbed, fixed_points
from klbench.rlhf.testbed.expected import REST
from klbench.rows import Row
from klbench.studies.ppo.options import TrainingOptions
from klbench.studies.ppo.verdicts import judged_points


def fixed_points_table(
    options: TrainingOptions,
    seed: int,
    points: Mapping[str, tuple[str, float]],
    training: pd.DataFrame,
    noise_free: pd.DataFrame,
    free: pd.DataFrame,
) -> pd.DataFrame:
    """Return one row a combination.

    Regret, KL and reward where its mean gradient vanishes, and where three trainings ended.

    ``free_``: exact gradients and a logit for every token after every prefix, which is what the
    prediction is for, so that where none is known there is nothing; ``noise_free_``: exact
    gradients and the policy's own shape; ``sampled_``: as it was trained. ``residual`` is the norm
    of the expected gradient at the prediction over that at the reference, and ``free_residual`` its
    largest one over seeds after at most ``free_steps``, which for ``free_unsettled`` seeds is no
    rest. ``sampled_seeds`` did not diverge; ``sampled_way``: how much of the way in regret from the
    start to the prediction training has gone on these seeds, 1 being all of it.
    """
    few = tuple(sorted(set(free["seed"]))) if len(free) else tuple(range(options.seeds))
    testbed = Testbed.of(options, seed, few)
    beta = torch.tensor([options.beta], dtype=torch.float64)
    exact = {
        name: testbed.exact(fixed_points.predicted(testbed, name, beta), beta)
        for name in fixed_points.NAMES
    } | {"greedy": fixed_points.greedy(testbed, beta)}
    kinds = {"free": free, "noise_free": noise_free, "sampled": training}
    frames = {
        kind: SeedFrame.of(table[table["seed"].isin(few)], "combination")
        for kind, table in kinds.items()
        if len(table)
    }
    rows = []
    for name, (point, residual) in points.items():
        row: Row = {
            **described(name),
            "fixed_point": point,
            "formula": fixed_points.FORMULAS.get(point, ""),
            "residual": residual,
            "seeds": len(few),
        }
        mine = {
            kind: part
            for kind, frame in frames.items()
            if len((part := frame.where(combination=name)).every)
        }
        predicted, start = exact.get(point), mine["sampled"].first("regret").reindex(few)
        row |= {"start_regret": mean(start)}
        for column in ("regret", "kl", "reward"):
            values = (
                np.full(1, math.nan) if predicted is None else getattr(predicted, column)[0].numpy()
            )
            row |= summary(f"predicted_{column}", values, name)
            for kind, part in mine.items():
                reached = part.last(column)
                row |= summary(f"{kind}_{column}", reached, name)
                if kind == "sampled" and column == "regret":
                    aim = pd.Series(values if predicted is not None else math.nan, index=few)
                    row |= {"sampled_seeds": len(reached)}
                    row |= share("sampled_way", start - reached, start - aim, name)
        if "free" in mine:
            rest = mine["free"].every
            row |= {
                "free_steps": int(rest["steps_taken"].max()),
                "free_residual": float(rest["residual"].max()),
            }
            row |= {"free_unsettled": int((~(rest["residual"] <= REST)).sum())}
        rows.append(row)
    return judged_points(pd.DataFrame(rows))
