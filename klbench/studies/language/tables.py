"""The tables of training language models from its runs.

While they were trained, and compared in the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from klbench.metrics.seeds import Z95, SeedFrame, outcome, share, verdict
from klbench.rlhf.options import NONE
from klbench.rlhf.rows import described, training_table
from klbench.schema import Tables
from klbench.studies.language.columns import HALF
from klbench.studies.language.runs import UNTRAINED
from klbench.studies.language.stage import clustered

Run = Mapping[str, Any]
Parts = Callable[[str], Mapping[str, Any]]
"""The columns that tell what a combination is made of, by its name."""
PAIRED = ("reward", "kl", "proxy")
"""The columns compared completion by completion; there is a proxy where a reward model pays."""


def trained_table(
    runs: Sequence[Run], algorithm: str, beta: float, parts: Parts = described
) -> pd.DataFrame:
    """Return one row for each combination, seed and report; no optimum is known here."""
    unknown = {"regret": math.nan, "kl_to_optimum": math.nan}
    return training_table(
        {"algorithm": algorithm, "beta": beta, **parts(run["combination"]), **row, **unknown}
        for run in runs
        for row in run["rows"]
    )


def compared_table(runs: Sequence[Run], reference: str, parts: Parts = described) -> pd.DataFrame:
    """Return one row for each combination.

    Its policies in the end, and their paired differences from ``reference``.

    Standard errors are those of the completions measured, given the trained policies; ``_spread``
    is the standard deviation between seeds, NaN with one. ``kl_share`` is the KL over that of
    training without a penalty on the same seeds, with a 95 % interval over seeds; with one seed,
    over its completions. Runs that diverged are counted and left out, unless all of a combination
    did.
    """
    columns = ("combination", "seed", "status", "statistics", "values")
    frame = SeedFrame.of(
        pd.DataFrame({column: [run[column] for run in runs] for column in columns}), "combination"
    )
    rows = []
    for (name,), mine in frame.groups(["combination"]):
        own = mine.kept if len(mine.kept) else mine.every
        row = {
            **parts(NONE if name == UNTRAINED else name),
            "combination": name,
            "seeds": mine.counts["seeds"],
        }
        for key in (each for each in own["statistics"].iloc[0] if not each.endswith("_se")):
            values, errors = (
                np.array([run[f"{key}{end}"] for run in own["statistics"]]) for end in ("", "_se")
            )
            row |= {
                key: values.mean(),
                f"{key}_se": float(np.sqrt(np.square(errors).sum()) / len(own)),
            }
            if key in PAIRED:
                row[f"{key}_spread"] = float(values.std(ddof=1)) if len(own) > 1 else math.nan
        for other, word in ((reference, "difference"), (UNTRAINED, "gain")):
            row |= _differences(own, frame.where(combination=other).kept, word)
        row |= {"diverged": mine.counts["diverged"]} | _share(
            mine.kept, frame.where(combination=NONE).kept, name
        )
        rows.append(row | {"outcome": _outcome(row), "estimate_outcome": _estimate_outcome(row)})
    return pd.DataFrame(rows)


def _differences(own: pd.DataFrame, others: pd.DataFrame, word: str) -> dict[str, float]:
    """Return means over seeds of paired differences, on the same prompts and random numbers,
    with standard errors.
    """
    pairs = own.merge(others, on="seed", suffixes=("", "_other"))
    result: dict[str, float] = {}
    for key in (each for each in PAIRED if each in own["values"].iloc[0]):
        found = [
            clustered(np.subtract(run[key], other[key]), np.array(run["prompt"]))
            for run, other in zip(pairs["values"], pairs["values_other"], strict=True)
        ]
        mean, se = (
            (np.array(each) for each in zip(*found, strict=True))
            if found
            else (np.array([math.nan]),) * 2
        )
        result |= {
            f"{key}_{word}": float(mean.mean()),
            f"{key}_{word}_se": float(np.sqrt(np.square(se).sum()) / len(se)),
        }
    return result


def _share(own: pd.DataFrame, free: pd.DataFrame, name: str) -> dict[str, float]:
    """Return the KL over that of training without a penalty, by seed.

    Of one seed by completion, on the same prompts.
    """
    kl, others = (
        each.set_index("seed")["statistics"].map(lambda run: run["kl"]).astype(float)
        for each in (own, free)
    )
    found = share("kl_share", kl, others, name)
    pairs = own.merge(free, on="seed", suffixes=("", "_free"))
    if len(pairs) == 1 and math.isfinite(found["kl_share"]):
        run = pairs.iloc[0]
        rest = np.subtract(
            run["values"]["kl"], found["kl_share"] * np.array(run["values_free"]["kl"])
        )
        half = (
            Z95
            * clustered(rest, np.array(run["values"]["prompt"]))[1]
            / run["statistics_free"]["kl"]
        )
        found |= {
            "kl_share_low": found["kl_share"] - half,
            "kl_share_high": found["kl_share"] + half,
        }
    return found


def _outcome(row: Mapping[str, Any]) -> str:
    if not row["seeds"]:
        return outcome(row, "")
    if row["combination"] in (UNTRAINED, NONE) or math.isnan(row["kl_share"]):
        return ""
    return verdict(row, "kl_share", "holds", "not told", "does not hold", of=HALF)


def _estimate_outcome(row: Mapping[Any, Any]) -> str:
    """Return on which side of the exact KL the estimator in use is, where noise does not explain
    it (95 %).
    """
    error, half = row["estimate_error"], Z95 * row["estimate_error_se"]
    return "too high" if error > half else "too low" if error < -half else "within noise"


def complete(tables: Tables) -> dict[str, pd.DataFrame]:
    """Return the tables of a run of an earlier version with the outcome of the estimates, which
    they did not have yet.
    """
    found = dict(tables)
    if "compared" in found:
        said = [_estimate_outcome(row) for row in found["compared"].to_dict("records")]
        found["compared"] = found["compared"].assign(estimate_outcome=said)
    return found


def texts_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return some completions of each policy."""
    return pd.DataFrame(
        [
            {"combination": run["combination"], "seed": run["seed"]} | text
            for run in runs
            for text in run["texts"]
        ]
    )
