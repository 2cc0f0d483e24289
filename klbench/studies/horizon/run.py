"""The law over length: every series, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from klbench import gradients
from klbench.context import Context
from klbench.gradients import Combination
from klbench.policies.markov import FAMILIES, Family
from klbench.rows import Rows
from klbench.schema import Tables
from klbench.studies.gradient.run import combinations_table
from klbench.studies.horizon import crossings, language, levels, series
from klbench.studies.horizon.columns import TABLES
from klbench.studies.horizon.options import HorizonOptions
from klbench.study import Summary

Found = dict[str, Rows]
ENUMERATED = range(2, 9)
"""The lengths at which every sequence is enumerated."""


def language_models(
    chosen: Sequence[Combination], lags: Sequence[float], samples: int, seed: int, longest: int
) -> Found:
    """One task: the language models, without a lag and at the largest."""
    lengths = [tokens for tokens in language.LENGTHS if tokens <= longest]
    ends = sorted({lag for lag in lags if lag in (min(lags), max(lags))})
    found = language.rows(chosen, ends, lengths, samples, seed)
    return {"horizon": found.horizon, "sampled": found.sampled, "gaps": found.gaps}


def exact_series(
    name: str, chosen: Sequence[Combination], kl: float, options: HorizonOptions, seed: int
) -> Found:
    """One task: a series at one KL a token, at every lag."""
    lags, lengths = options.lag_tokens, options.lengths
    found: Found = {"horizon": [], "bounds": [], "crossings": []}
    for lag in lags:
        if name == "lognormal":
            found["horizon"] += series.lognormal_rows(chosen, kl, lag, lengths)
        elif name == "gru":
            for tokens in ENUMERATED:
                found["horizon"] += series.gru_rows(chosen, kl, lag, tokens, seed)
        else:
            family: Family = name  # type: ignore[assignment]
            found["horizon"] += series.chain_rows(chosen, family, kl, lag, lengths, seed)
            if lag:
                found["bounds"] += crossings.bound_rows(family, kl, lag, lengths, seed)
            if lag and family == "mixing":
                found["crossings"] += crossings.crossing_rows(
                    kl, lag, lengths, options.batch, options.chains, seed
                )
    if name in FAMILIES:
        found["families"] = [levels.family_row(name, kl, lengths, seed, options.chains)]
    if name in FAMILIES and kl == options.middle_kl:
        tokens = min(language.LENGTHS[-1], lengths[-1])
        found["gaps"] = levels.gap_rows(name, kl, tokens, seed, options.chains)
    if name == "lognormal" and kl == options.middle_kl:
        found["marks"] = crossings.mark_rows()
    if name == "mixing" and kl == options.middle_kl:
        found["levels"] = levels.levels_rows(lengths, seed)
    return found


def run(options: HorizonOptions, context: Context) -> Tables:
    """Return table ``horizon`` and those that follow.

    Where it levels off, where weights cross, bounds, and known marks.
    """
    chosen = [gradients.get(name) for name in options.combinations]
    seed = context.seed
    found: Found = {schema.table: [] for schema in TABLES}
    tasks: list[tuple[str, tuple[Any, ...]]] = []
    models = [
        (
            "language models",
            (language_models, chosen, options.lag_tokens, options.samples, seed, options.longest),
        )
    ] * ("lm" in options.series)
    for name in options.series:
        # Every sequence is enumerated at one KL alone.
        kls = (options.middle_kl,) if name == "gru" else options.kl_tokens
        if name != "lm":
            tasks += [
                (f"{name}, {kl:g} nats a token", (exact_series, name, chosen, kl, options, seed))
                for kl in kls
            ]
    for part in context.collect(_call, [*models, *tasks]):
        for name, rows in part.items():
            found[name] += rows
    sampled = levels.sampled_row(found["sampled"], found["horizon"], found["gaps"])
    found["families"] += [] if sampled is None else [sampled]
    order = {name: k for k, name in enumerate(options.series)}
    found["horizon"].sort(key=lambda row: order[row["series"]])
    tables = {name: pd.DataFrame(rows) for name, rows in found.items() if rows}
    return tables and tables | {"combinations": combinations_table(chosen)}


def _call(function: Any, *arguments: Any) -> Found:
    result: Found = function(*arguments)
    return result


def summarize(results: Tables) -> list[Summary]:
    """The first chain, or the first series, on-policy and at the largest lag, at its shortest
    and longest length.
    """
    table = results["horizon"]
    names = list(dict.fromkeys(table["series"]))
    name = next((each for each in names if each in FAMILIES), names[0])
    rows = table[table["series"] == name]
    rows = rows[
        rows["kl_token"] == sorted(rows["kl_token"].unique())[rows["kl_token"].nunique() // 2]
    ]
    ends = sorted(rows["tokens"].unique())[:: max(rows["tokens"].nunique() - 1, 1)]
    lag = rows["lag_token"].max()
    shown = []
    for combination, own in rows.groupby("combination", sort=False):
        cells = [
            (
                f"{found['rel_bias'].iloc[0]:.3g} / {found['rel_std'].iloc[0]:.3g}"
                if len(found)
                else ""
            )
            for each in (0.0, lag)
            for tokens in ends
            for found in [own[(own["tokens"] == tokens) & (own["lag_token"] == each)]]
        ]
        shown.append((str(combination), *cells))
    heads = [f">{tokens} tokens{', lag' if each else ''}" for each in (0.0, lag) for tokens in ends]
    title = (
        f"{name}, {rows['kl_token'].iloc[0]:g} nats a token: bias and noise, in lengths of the"
        " exact gradient"
    )
    return [Summary(title, ("combination", *heads), shown)] if not math.isnan(lag) else []
