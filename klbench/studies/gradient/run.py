"""The gradient of each combination: its mean against the exact gradients, and its noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from klbench import gradients, trainers
from klbench.context import Context
from klbench.gradients import Combination
from klbench.rows import Row
from klbench.schema import Tables
from klbench.studies.gradient.options import GradientOptions
from klbench.studies.gradient.rows import TOLERANCE, described, measure
from klbench.studies.gradient.tables import judged
from klbench.study import Summary
from klbench.workers import copied

ORDER = (
    "pair combination estimator placement level correction baseline staleness rel_bias rel_bias_se"
    " cosine variance variance_se rel_std matches claim unbiased_claim method status"
).split()


def combinations_table(chosen: Sequence[Combination]) -> pd.DataFrame:
    """One row a combination: what it is and who uses it."""
    return pd.DataFrame(
        [
            described(each)
            | {
                "aliases": ", ".join(each.aliases),
                "used_by": "; ".join(
                    filter(None, (*trainers.users().get(each.name, ()), each.used_by))
                ),
                "called_unbiased_by": each.called_unbiased_by,
                "claim": each.claim or "",
                "off_policy": each.off_policy,
                "one_token": each.one_token or "",
                "source": each.source,
            }
            for each in chosen
        ]
    )


def typed(names: Sequence[str] | None) -> dict[str, str]:
    """Return by combination the names that were typed.

    None where all combinations were asked for.
    """
    return (
        {}
        if names is None or set(names) == set(gradients.names())
        else {gradients.get(name).name: name for name in names}
    )


def run(options: GradientOptions, context: Context) -> Tables:
    """Return ``gradients``, ``combinations``, ``verdicts``, ``options`` and, for policies of two
    parameters, ``arrows``.
    """
    chosen = options.chosen()
    tasks = [
        (pair.title, (pair, chosen, options.group, options.samples, context.seed))
        for pair in options.pairs
    ]
    found = context.collect(measure, tasks, short=not copied())  # seconds each, with torch loaded
    rows, arrows = ([row for part in found for row in part[k]] for k in (0, 1))
    if not rows:
        return {}
    table = pd.DataFrame(rows)
    tables = {
        "gradients": table[[*ORDER, *(c for c in table if c not in ORDER)]],
        "combinations": combinations_table(chosen),
    }
    return {
        **tables,
        **judged(tables, typed(options.combinations)),
        **({"arrows": pd.DataFrame(arrows)} if arrows else {}),
    }


def summarize(results: Tables) -> list[Summary]:
    """The sequence pair that is furthest from its reference, or the pair that is."""
    table = results["gradients"]
    rows = table[table["kl_qp"] == table["kl_qp"].max()]
    return [
        Summary(
            f"{rows['pair'].iloc[0]}: expected gradient against grad KL(q‖p), and one sample's"
            " noise",
            (
                "combination",
                ">bias / exact",
                ">cosine",
                ">sd / exact",
                "is the gradient of",
                "flag",
            ),
            [
                (row["combination"], *shown(row), "" if row["status"] == "ok" else row["status"])
                for row in rows.to_dict("records")
            ],
        )
    ]


def shown(row: Row) -> tuple[str, str, str, str]:
    """Bias, cosine, noise and what the gradient is of, in a few characters each."""
    sampled = row["method"] == "sampling" and row["matches"] not in ("", "none")
    return (
        "0" if row["rel_bias"] < TOLERANCE else f"{row['rel_bias']:.3g}",
        "" if math.isnan(row["cosine"]) else f"{row['cosine']:.3f}",
        f"{row['rel_std']:.3g}",
        ("≈ " if sampled else "") + row["matches"],
    )
