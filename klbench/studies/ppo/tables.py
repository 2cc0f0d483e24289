"""The tables of the training study.

Where each combination ended, reward over KL, training on exact gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

from klbench.metrics.seeds import SeedFrame, at_kl, effect, mean, paired, summarised, summary
from klbench.rlhf.rows import described
from klbench.rows import grouped
from klbench.studies.ppo.options import TrainingOptions
from klbench.studies.ppo.verdicts import judged_final, outcome_of


def final_table(
    training: pd.DataFrame, options: TrainingOptions, points: Mapping[str, str]
) -> pd.DataFrame:
    """Return one row a combination.

    Where it ended, and the paired differences from the comparison and from before training.

    Over ``seeds`` that did not diverge, and for differences ``difference_seeds`` with which the
    comparison did not either; ``start_regret`` is that of all seeds.
    """
    frame = SeedFrame.of(training, "combination")
    reference = frame.where(combination=options.reference_combination).last("regret")
    rows = []
    for name in options.combinations:
        mine = frame.where(combination=name)
        regret, start = mine.last("regret"), mine.first("regret")
        own = mine.kept[mine.kept["step"] > 0]
        error = (own["kl_estimate"] - own["kl"]).groupby(own["seed"]).mean().to_numpy()
        row = {
            **described(name),
            "seeds": len(regret),
            "fixed_point": points[name],
            "start_regret": mean(start),
        }
        row |= summary("regret", regret, name) | paired("start_difference", regret, start, name)
        row |= paired("difference", regret, reference, name) | {
            "effect_size": effect(regret, reference)
        }
        row |= {column: mean(mine.last(column)) for column in ("reward", "kl", "kl_to_optimum")}
        row |= summary("estimate_error", error, name)
        row |= {
            column: own[column].mean()
            for column in ("clip_fraction", "clamp_fraction", "loss_beta")
        }
        row |= {"diverged": mine.counts["diverged"]}
        rows.append(
            row
            | {
                "outcome": outcome_of(row, options.reference_combination),
                "altered_by": options.altered_by,
            }
        )
    return judged_final(pd.DataFrame(rows))


def frontier_tables(
    sampled: pd.DataFrame, others: pd.DataFrame, options: TrainingOptions
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return ``frontier``, reward and KL of each weight beside the best policy of that KL, and
    ``matched``, at equal KL.
    """
    if not len(others):
        return pd.DataFrame(), pd.DataFrame()
    last = pd.concat([each[each["step"] == each["step"].max()] for each in (sampled, others)])
    last = last[last["combination"].isin(options.frontier) & last["seed"].isin(others["seed"])]
    last = last.assign(shortfall=last["frontier_reward"] - last["reward"])
    frame, by = SeedFrame.of(last, "combination", "beta"), ["combination", "beta"]
    frontier = summarised(
        frame, by, ("kl", "reward", "frontier_reward", "shortfall"), plain=("frontier_reward",)
    )
    starts = (
        SeedFrame.of(sampled, "combination")
        .where(combination=options.reference_combination)
        .first("reward")
    )
    return frontier.sort_values(by, ignore_index=True), _matched(frame.kept, starts, options)


def _matched(
    kept: pd.DataFrame, starts: pd.Series[float], options: TrainingOptions
) -> pd.DataFrame:
    """Return the reward at the KL that the comparison came to with each weight, by interpolation
    between a seed's points.

    Only seeds whose points reach that KL; ``kl`` is the mean of all seeds on which the comparison
    did not diverge.
    """
    rows = []
    reference = options.reference_combination
    others = [name for name in options.frontier if name != reference]
    for beta, aims in kept[kept["combination"] == reference].groupby("beta"):
        for name, aim in product(others, aims.to_dict("records")):
            path = kept[(kept["combination"] == name) & (kept["seed"] == aim["seed"])]
            reward = at_kl(path, "reward", aim["kl"], starts[aim["seed"]])
            row = {"combination": name, "beta": beta, "kl": aims["kl"].mean(), "seed": aim["seed"]}
            rows.append(row | {"difference": float(reward) - aim["reward"]})
    found = pd.DataFrame(rows, columns=["combination", "beta", "kl", "seed", "difference"]).dropna()
    return summarised(
        SeedFrame.of(found), ["combination", "beta"], ("difference",), carried=("kl",)
    )


def noise_free_table(rows: Sequence[Mapping[str, Any]], alike: Mapping[str, str]) -> pd.DataFrame:
    """Return one row a combination, seed and evaluation.

    Combinations with the same expected gradient have the same rows.
    """
    found = grouped(rows, "combination")
    return pd.DataFrame(
        {**described(name), "same_gradient_as": first}
        | {k: v for k, v in row.items() if k != "combination"}
        for name, first in alike.items()
        for row in found.get(first, [])
    )
