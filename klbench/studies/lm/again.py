"""The changes when the same completions are scored again.

In another format, or with most of the vocabulary in one bucket.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from klbench import estimators
from klbench.context import Context
from klbench.pairs import Pair
from klbench.rows import Rows
from klbench.studies.lm.measure import LEVELS, Shard, first, skip_reason
from klbench.studies.lm.values import ratio_of
from klbench.types import Completions, CompletionSource, Dtype, Estimator, Skip

SELF = ("k1", "k2", "k3")


def _mean_se(x: np.ndarray) -> tuple[float, float]:
    return float(x.mean()), float(x.std(ddof=1) / np.sqrt(x.size)) if x.size > 1 else float("nan")


def _changes(estimator: Estimator, here: Shard, there: Shard) -> Rows:
    rows = []
    for level in LEVELS:
        before, after = (
            each.summed(estimator.terms(each.draws(level)))
            if level == "token"
            else estimator.terms(each.draws(level))
            for each in (here, there)
        )
        change, change_se = _mean_se(after - before)
        rows.append(
            {
                "what": "policy against reference",
                "estimator": estimator.name,
                "level": level,
                "mean": float(before.mean()),
                "mean_there": float(after.mean()),
                "change": change,
                "change_se": change_se,
            }
        )
    return rows


def _false(here: Shard, there: Shard) -> Rows:
    """The divergence that the policy seems to have from itself.

    Scored there in place of the reference.
    """
    log_ratio = there.log_q - here.log_q
    rows = []
    for name in SELF:
        terms = estimators.get(name)
        for level, values in (
            ("token", here.summed(terms(log_ratio))),
            ("sequence", terms(here.summed(log_ratio))),
        ):
            mean, se = _mean_se(values)
            rows.append(
                {
                    "what": "policy against itself",
                    "estimator": name,
                    "level": level,
                    "mean": 0.0,
                    "mean_there": mean,
                    "change": mean,
                    "change_se": se,
                }
            )
    return rows


def scored_again(
    pairs: Sequence[Pair],
    chosen: Sequence[Sequence[Estimator]],
    context: Context,
    counts: Sequence[tuple[int, int]],
    dtypes: Sequence[Dtype],
    ks: Sequence[int],
) -> dict[str, pd.DataFrame]:
    """Return those of the tables ``dtype`` and ``truncation`` that have rows.

    They are from the first completions of each pair that can score them again. ``counts`` are, for
    each pair, so many completions and how many were drawn with them.
    """
    able = [pair.capabilities.rescored or pair.capabilities.truncated for pair in pairs]
    tasks = [
        (pair, each, context.seed, n, drawn, tuple(dtypes), tuple(ks))
        for pair, each, can, (n, drawn) in zip(pairs, chosen, able, counts, strict=True)
        if can and n
    ]
    found = [each for each in context.group.map(_rows, tasks) if each is not None]
    tables = {
        "dtype": [row for rows, _ in found for row in rows],
        "truncation": [row for _, rows in found for row in rows],
    }
    return {name: pd.DataFrame(rows) for name, rows in tables.items() if rows}


def _rows(
    pair: CompletionSource,
    chosen: Sequence[Estimator],
    seed: int,
    n: int,
    drawn: int,
    dtypes: Sequence[Dtype],
    ks: Sequence[int],
) -> tuple[Rows, Rows]:
    # As they were drawn to be measured, which the pair may remember.
    made = pair.completions(seed, 0, max(n, drawn))
    if isinstance(made, Skip):
        return [], []
    completions = first(made, n)
    return _dtype_rows(pair, chosen, completions, dtypes), _truncation_rows(pair, completions, ks)


def _dtype_rows(
    pair: CompletionSource,
    chosen: Sequence[Estimator],
    completions: Completions,
    dtypes: Sequence[Dtype],
) -> Rows:
    """Completions scored in each format.

    ``change`` is the mean of each estimator, per completion, in the format minus that in the pair's
    own; ``sd_log_ratio`` the standard deviation, over tokens, of what the log-ratio changes by. Of
    ``policy against itself``, whose true divergence is 0, the policy in the format takes the place
    of the reference.
    """
    rows, here = [], Shard(completions)
    usable = [
        each for each in chosen if skip_reason(each, off_policy=here.log_mu is not None) is None
    ]
    for dtype in dtypes:
        scored = pair.rescored(completions, dtype)
        if isinstance(scored, Skip):
            continue
        there = Shard(scored)
        moved = there.log_ratio - here.log_ratio
        shared = {
            "pair": pair.title,
            "dtype": dtype,
            "completions": here.n,
            "tokens": here.row.size,
            "sd_log_ratio": float(moved.std()),
            "largest": float(np.abs(moved).max(initial=0.0)),
            "sd_log_q": float((there.log_q - here.log_q).std()),
        }
        found = [row for each in usable for row in _changes(each, here, there)] + _false(
            here, there
        )
        rows += [shared | row for row in found]
    return rows


def _truncation_rows(pair: CompletionSource, completions: Completions, ks: Sequence[int]) -> Rows:
    """Return what is left of the Rao-Blackwell sum of a completion when only the k most probable
    tokens are distinguished.

    ``missing`` is the paired difference to the exact sum, ``share`` that over the exact sum.
    """
    if completions.kl_qp is None:
        return []
    rows, here = [], Shard(completions)
    exact = here.summed(completions.kl_qp[here.mask])
    found = pair.truncated(completions, ks) if ks else ()
    for truncated in () if isinstance(found, Skip) else found:
        left = here.summed(truncated.kl_qp[here.mask])
        mean, mean_se = _mean_se(left)
        missing, missing_se = _mean_se(exact - left)
        rows.append(
            {
                "pair": pair.title,
                "k": truncated.k,
                "completions": here.n,
                "exact": float(exact.mean()),
                "mean": mean,
                "mean_se": mean_se,
                "missing": missing,
                "missing_se": missing_se,
                "share": ratio_of(missing, float(exact.mean())),
            }
        )
    return rows
