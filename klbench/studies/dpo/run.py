"""The distance of DPO from the exact optimum, by the number of ranked pairs and by the
divergence of its loss.
"""

from __future__ import annotations

import math

from klbench.context import Context
from klbench.metrics.seeds import SeedFrame, band
from klbench.rlhf.rows import training_table
from klbench.rows import rising
from klbench.schema import Tables
from klbench.studies.dpo import tables, tasks
from klbench.studies.dpo.options import STANDARD, DpoOptions
from klbench.studies.ppo.tasks import chunks
from klbench.study import Summary


def run(options: DpoOptions, context: Context) -> Tables:
    """Return the tables of all losses, numbers of pairs and seeds."""
    plan = [
        (size, seeds)
        for size in (math.inf, *reversed(options.comparisons))
        for seeds in chunks(options.seeds)
    ]
    words = {math.inf: "all pairs"}
    work = [
        (
            f"{words.get(size, f'{size:,.0f} pairs')}, seeds {seeds[0]} to {seeds[-1]}",
            (options, context.seed, size, seeds),
        )
        for size, seeds in plan
    ]
    found = context.collect(tasks.perform, work)
    if not found:
        return {}
    rows = rising((row for each in found for row in each["training"]), "pairs")
    estimate_rows = rising((row for each in found for row in each["estimates"]), "pairs")
    point_rows = [row for each in found for row in each["points"]]
    best = [
        row
        for seeds in chunks(options.seeds)
        for row in tasks.optimum_rows(options, context.seed, seeds)
    ]
    # The penalty of DPO is none that is estimated: it is in the loss, for whole sequences; k1 tells
    # its KL.
    fixed = {"algorithm": "dpo", "estimator": "none", "placement": "loss", "level": "sequence"}
    arms = tables.described(options)
    training = training_table(fixed | arms[row["arm"]] | row for row in rows)
    final = tables.final_table(training, options)
    result = {
        "training": training,
        "dpo_final": final,
        "dpo_curves": band(
            SeedFrame.of(training, "arm", "pairs"), ("arm", "pairs", "step"), tables.CURVES
        ),
        "dpo_rates": tables.rates_table(training, final),
        "dpo_optima": tables.optima_table(best, training, options),
        "dpo_estimates": tables.estimates_table(estimate_rows) if estimate_rows else None,
        "dpo_seen": tables.seen_table(estimate_rows) if estimate_rows else None,
        "kto_points": tables.points_table(point_rows) if point_rows else None,
    }
    return {name: table for name, table in result.items() if table is not None and len(table)}


def summarize(results: Tables) -> list[Summary]:
    """Return standard DPO by the number of pairs, and all losses with one number of them and
    with all there are.
    """
    table, start = results["dpo_final"], results["dpo_optima"]["start"].iloc[0]
    sizes = sorted(table["pairs"].unique())
    finite = [size for size in sizes if math.isfinite(size)]
    shown = [(f"{STANDARD}, by the number of pairs", table[table["arm"] == STANDARD])]
    shown += [
        (
            f"every loss, {'all pairs' if math.isinf(size) else f'{size:,.0f} pairs'}",
            table[table["pairs"] == size],
        )
        for size in dict.fromkeys((*finite[len(finite) // 2 :][:1], *sizes[-1:]))
    ]
    return [
        Summary.of(
            f"KL(pi‖pi*), mean of {table['seeds'].iloc[0]} seeds (untrained: {start:.3f}): {what}",
            ("loss", ">pairs", ">last", ">best", ">last - dpo's", ">95 % interval", ">KL(pi‖ref)"),
            (
                *("{arm}", "{size}", "{last:.3f}", "{best:.3f}", "{last_difference:+.3f}"),
                "{last_difference_low:+.2f} to {last_difference_high:+.2f}",
                "{kl:.2f}",
            ),
            rows.assign(
                size=["all" if math.isinf(each) else f"{each:,.0f}" for each in rows["pairs"]]
            ),
        )
        for what, rows in shown
    ]
