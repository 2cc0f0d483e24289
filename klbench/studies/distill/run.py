"""The run of the distillation study: the objectives of each pair, measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from klbench.context import Context
from klbench.pairs import Pair
from klbench.pairs.lm import LmPair, threads
from klbench.rlhf import objectives
from klbench.rlhf.distillation import support
from klbench.studies.distill.options import DistillOptions
from klbench.studies.distill.rows import (
    Row,
    Sums,
    at_states,
    described,
    enumerated,
    token_log_probs,
    variants,
)
from klbench.studies.distill.training import train
from klbench.study import Summary
from klbench.threads import one_thread


def measure(pair: Pair, names: Sequence[str], ks: Sequence[int]) -> list[Row]:
    """One task: an enumerable pair."""
    with one_thread():
        return enumerated(pair, names, ks)


def sampled(pair: LmPair, options: DistillOptions, seed: int) -> list[Row]:
    """Return the rows of language models: from completions of the student, a few at a time."""
    chosen = [objectives.get(name) for name in options.objectives]
    found: dict[tuple[str, str, int], Sums] = {}
    vocabulary = 0
    for shard, start in enumerate(range(0, options.samples, pair.score_batch)):
        size = min(pair.score_batch, options.samples - start)
        completions = pair.completions(seed, shard, size)
        completion = torch.from_numpy(np.nonzero(completions.mask)[0])
        with threads(*pair.models):
            log_q, log_p = token_log_probs(pair, completions)
            vocabulary = log_q.shape[-1]
            for objective in chosen:
                for owner, k in variants(objective, options.ks, vocabulary):
                    kept = (
                        support(log_q if owner == "student" else log_p, k)
                        if objective.has_support
                        else torch.ones_like(log_q, dtype=torch.bool)
                    )
                    each = at_states(objective, log_q, log_p, kept)
                    sums = found.setdefault((objective.name, owner, k), Sums())
                    sums.add(each, completion, size)
    by_name = {each.name: each for each in chosen}
    return [
        described(pair, by_name[name], owner, k, vocabulary)
        | sums.row(later=by_name[name].discount > 0.0)
        for (name, owner, k), sums in found.items()
    ]


def run(options: DistillOptions, context: Context) -> dict[str, pd.DataFrame]:
    """Return table ``distill`` and, where students are trained, those of their training."""
    listed = [pair for pair in options.pairs if not isinstance(pair, LmPair)]
    tasks = [(pair.title, (pair, options.objectives, options.ks)) for pair in listed]
    rows: list[dict[str, Any]] = [
        row for found in context.collect(measure, tasks, short=True) for row in found
    ]
    for pair in options.pairs:
        if isinstance(pair, LmPair) and not context.interrupted:
            rows += sampled(pair, options, context.seed)
    if not rows:
        return {}
    return {"distill": pd.DataFrame(rows)} | (
        {} if context.interrupted else train(options, context)
    )


def summarize(results: Mapping[str, pd.DataFrame]) -> list[Summary]:
    """Return the objectives of the first pair."""
    table = results["distill"]
    rows = table[table["pair"] == table["pair"].iloc[0]].to_dict("records")
    columns = (
        "objective",
        "support",
        ">k",
        ">value",
        ">value off by",
        ">gradient off by",
        ">sd / exact",
        ">bytes",
        "status",
    )
    return [
        Summary(
            f"{rows[0]['pair']}: objectives of distillation (nats a sequence)",
            columns,
            [
                (
                    row["objective"],
                    row["support"],
                    str(row["k"]),
                    f"{row['value']:.4g}",
                    f"{row['value_bias']:+.3g}",
                    f"{row['rel_bias']:.2%}",
                    f"{row['rel_std']:.3g}",
                    str(row["bytes_per_token"]),
                    "" if row["status"] == "ok" else row["status"],
                )
                for row in rows
            ],
        )
    ]
