"""PPO on language models: the result of each combination for a policy whose optimum is unknown.

Every combination and seed is a run of its own, in a worker, or one after the other on a GPU.
It is kept at every report and continued from there to the same bits.
"""

from __future__ import annotations

import math

import pandas as pd

from klbench import gradients
from klbench.context import Context
from klbench.rlhf.options import NONE
from klbench.rows import Rows
from klbench.schema import Tables
from klbench.studies.gradient.run import combinations_table
from klbench.studies.language import tables
from klbench.studies.language.options import PpoLmOptions
from klbench.studies.language.preferences import check, learned
from klbench.studies.language.runs import UNTRAINED, all_of
from klbench.studies.language.stage import prepared
from klbench.studies.ppo_lm.tasks import perform
from klbench.study import Summary


def run(options: PpoLmOptions, context: Context) -> Tables:
    """Tables ``training``, ``compared``, ``texts`` and ``combinations``.

    With reward models also ``raters``.
    """
    place, shared = prepared(options, context)
    raters = []
    if options.reward_model:
        context.group.agreed(lambda: check(options, shared))
        raters = learned(options, context, place)
    found = (
        []
        if context.interrupted
        else all_of(perform, options, context, place, (UNTRAINED, *options.combinations))
    )
    tables = _tables(options, found) if any(result["rows"] for result in found) else {}
    return {**tables, **({"raters": pd.DataFrame(raters)} if raters and tables else {})}


def _tables(options: PpoLmOptions, found: Rows) -> Tables:
    return {
        "training": tables.trained_table(found, options.algorithm, options.beta),
        "compared": tables.compared_table(found, options.reference_combination),
        "texts": tables.texts_table(found),
        "combinations": combinations_table(
            [gradients.get(name) for name in options.combinations if name != NONE]
        ),
    }


def summarize(results: Tables) -> list[Summary]:
    """Return the end of training with every combination."""
    table = results["compared"]
    columns = (
        "combination",
        ">reward",
        ">KL, exact",
        ">as estimated",
        ">of the KL without penalty",
        "outcome",
    )
    cells = (
        "{combination}",
        "{reward:.3f} ± {reward_se:.3f}",
        "{kl:.2f} ± {kl_se:.2f}",
        "{kl_estimate:.2f} ± {kl_estimate_se:.2f}",
        "{share}",
        "{outcome}",
    )
    shares = ["" if math.isnan(each) else f"{100 * each:.0f} %" for each in table["kl_share"]]
    seeds = table["seeds"].iloc[0]
    title = f"After training, nats a completion, mean of {seeds} seeds (± one standard error)"
    return [Summary.of(title, columns, cells, table.assign(share=shares))]
