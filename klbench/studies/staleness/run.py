"""The effect on each gradient of a sampler that lags behind the policy, and the cost of each
correction.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from klbench import gradients
from klbench.context import Context
from klbench.gradients import Combination
from klbench.gradients.surrogate import weight_of
from klbench.pairs import Pair
from klbench.rows import Rows
from klbench.schema import Tables
from klbench.studies.gradient.rows import measure
from klbench.studies.gradient.run import combinations_table, shown, typed
from klbench.studies.staleness.choices import choices
from klbench.studies.staleness.options import StalenessOptions, _behind
from klbench.studies.staleness.over_seeds import over_seeds
from klbench.studies.staleness.tables import corrections
from klbench.study import Summary
from klbench.types import Skip


def effective_sample_size(pair: Pair) -> dict[str, float]:
    """``1 / E_mu[w^2]``: of the weights of whole sequences, and of single tokens.

    The mean over prompts.
    """
    task = pair.gradient_task()
    assert not isinstance(task, Skip)
    prompts = task.atoms()
    assert prompts is not None
    whole, token = [], []
    for atoms in prompts:
        p, rollouts = atoms.probability, atoms.rollouts
        log_weight = rollouts.log_q - rollouts.log_mu
        whole.append(1.0 / float(p @ (2.0 * log_weight.sum(-1)).exp()))
        reached = p[:, None] * rollouts.mask
        token.append(float(reached.sum() / (reached * (2.0 * log_weight).exp()).sum()))
    return {"ess": sum(whole) / len(whole), "ess_token": sum(token) / len(token)}


def weights(pair: Pair, chosen: Sequence[Combination]) -> list[dict[str, float]]:
    """Return of each combination the mean of its weights, their effective sample size and the share
    that is not 0.

    Of tokens as often as the sampler reaches them, or of sequences where all tokens of one have the
    same.
    """
    task = pair.gradient_task()
    assert not isinstance(task, Skip)
    prompts = task.atoms()
    assert prompts is not None
    sums = [[0.0] * 4 for _ in chosen]
    for atoms in prompts:
        for combination, total in zip(chosen, sums, strict=True):
            weight = weight_of(combination, atoms.rollouts)
            whole = weight.shape[-1] == 1
            often = atoms.probability[:, None] * (1.0 if whole else atoms.rollouts.mask)
            for k, each in enumerate(
                (often, often * weight, often * weight**2, often * (weight > 0))
            ):
                total[k] += float(each.sum())
    return [
        {
            "weight_mean": first / number,
            "weight_ess": first**2 / (number * second) if second else 0.0,
            "weight_kept": kept / number,
        }
        for number, first, second, kept in sums
    ]


def measure_lag(
    pair: Pair, lag: float, chosen: Sequence[Combination], group: int, seed: int
) -> Rows:
    """One task: one pair at one lag."""
    stale = _behind(pair, lag)
    rows, _ = measure(stale, chosen, group, 0, seed)
    sizes = effective_sample_size(stale)
    return [row | sizes | own for row, own in zip(rows, weights(stale, chosen), strict=True)]


def run(options: StalenessOptions, context: Context) -> Tables:
    """Return tables ``staleness``, ``corrections``, ``choices`` and ``combinations``."""
    chosen = [gradients.get(name) for name in options.combinations]
    tasks = [
        (f"lag {lag:g} of {pair.title}", (pair, lag, chosen, options.group, context.seed))
        for pair in options.pairs
        for lag in sorted(set(options.lags))
    ]
    rows = [row for more in context.collect(measure_lag, tasks, short=True) for row in more]
    if not rows:
        return {}
    table = pd.DataFrame(rows).drop(columns=["total_rel_std"])
    names = typed(options.combinations)
    found, several = corrections(table, names), over_seeds(table, names)
    return {
        "staleness": table,
        "corrections": found,
        "choices": choices(table, names),
        **({} if several.empty else {"over_seeds": several}),
        "combinations": combinations_table(chosen),
    }


def summarize(results: Tables) -> list[Summary]:
    """The first pair at its largest lag."""
    table = results["staleness"]
    first = table.iloc[0]
    rows = table[(table["pair"] == first["pair"]) & (table["series"] == first["series"])]
    rows = rows[rows["staleness"] == rows["staleness"].max()]
    first = rows.iloc[0]
    return [
        Summary(
            f"{first['pair']}: sampler {first['staleness']:g} nats behind, effective sample size"
            f" {first['ess']:.0%}",
            ("combination", ">bias / exact", ">cosine", ">sd / exact", "is the gradient of"),
            [(row["combination"], *shown(row)) for row in rows.to_dict("records")],
        )
    ]
