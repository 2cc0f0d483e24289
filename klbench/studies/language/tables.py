"""From runs on language models to tables: while they were trained, and compared in the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from klbench.metrics import seeds
from klbench.rlhf.options import NONE
from klbench.studies.language.runs import UNTRAINED
from klbench.studies.language.stage import clustered
from klbench.studies.ppo.tables import described

if TYPE_CHECKING:
    import pandas as pd

Run = Mapping[str, Any]
Made = Callable[[str], dict[str, Any]]
"""What columns say of a combination of that name."""
PAIRED = ("reward", "kl", "proxy")
"""What is compared completion by completion; there is a proxy where a reward model pays."""
HALF = 0.5
"""A penalty holds the policy if it leaves less than so much of the KL that training without one comes to, for sure."""


def training_table(runs: Sequence[Run], algorithm: str, beta: float, made: Made = described) -> pd.DataFrame:
    """One row a combination, seed and report; no optimum is known here."""
    import pandas as pd

    first = (
        "algorithm", "combination", "estimator", "placement", "level", "correction", "baseline", "beta", "seed", "step",
        "reward", "kl", "kl_estimate", "objective", "regret", "kl_to_optimum",
    )  # fmt: skip
    unknown = {"regret": math.nan, "kl_to_optimum": math.nan}
    rows = [
        {"algorithm": algorithm, "beta": beta} | made(run["combination"]) | row | unknown for run in runs for row in run["rows"]
    ]
    table = pd.DataFrame(rows)
    return table[[*first, *(name for name in table if name not in first)]]


def compared_table(runs: Sequence[Run], reference: str, made: Made = described) -> pd.DataFrame:
    """One row a combination: what its policies do in the end, means over seeds, and the paired difference from ``reference``.

    Standard errors are those of the completions measured, given the trained policies; ``_spread`` is the standard deviation
    between seeds, NaN with one. ``kl_share`` is the KL over that of training without a penalty on the same seeds, with a 95 %
    interval over seeds; with one seed, over its completions. Runs that diverged are counted and left out, unless all of a
    combination did.
    """
    import pandas as pd

    rows = []
    free = _sound([run for run in runs if run["combination"] == NONE])
    for name in dict.fromkeys(run["combination"] for run in runs):
        every = [run for run in runs if run["combination"] == name]
        own = _sound(every) or every
        row = made(NONE if name == UNTRAINED else name) | {"combination": name, "seeds": len(_sound(every))}
        keys = [key for key in own[0]["statistics"] if not key.endswith("_se")]
        for key in keys:
            values = np.array([run["statistics"][key] for run in own])
            errors = np.array([run["statistics"][f"{key}_se"] for run in own])
            row |= {key: values.mean(), f"{key}_se": float(np.sqrt(np.square(errors).sum()) / len(own))}
            if key in PAIRED:
                row[f"{key}_spread"] = float(values.std(ddof=1)) if len(own) > 1 else math.nan
        for other, word in ((reference, "difference"), (UNTRAINED, "gain")):
            row |= _differences(own, _sound([run for run in runs if run["combination"] == other]), word)
        row |= {"diverged": len(every) - len(_sound(every))} | _share(_sound(own), free, name)
        rows.append(row | {"outcome": _outcome(row)})
    return pd.DataFrame(rows)


def _sound(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run["status"] == "ok"]


def _differences(own: Sequence[Run], others: Sequence[Run], word: str) -> dict[str, float]:
    """Means over seeds of paired differences, on the same prompts and random numbers, with standard errors."""
    by_seed = {run["seed"]: run for run in others}
    pairs = [(run, by_seed[run["seed"]]) for run in own if run["seed"] in by_seed]
    result: dict[str, float] = {}
    for key in (each for each in PAIRED if each in own[0]["values"]):
        found = [
            clustered(np.subtract(run["values"][key], other["values"][key]), np.array(run["values"]["prompt"]))
            for run, other in pairs
        ]
        mean, se = (np.array(each) for each in zip(*found, strict=True)) if found else (np.array([math.nan]),) * 2
        result |= {f"{key}_{word}": float(mean.mean()), f"{key}_{word}_se": float(np.sqrt(np.square(se).sum()) / len(se))}
    return result


def _share(own: Sequence[Run], free: Sequence[Run], name: str) -> dict[str, float]:
    """The KL over that of training without a penalty, by seed; of one seed by completion, on the same prompts and numbers."""
    import pandas as pd

    kl, others = (pd.Series({run["seed"]: run["statistics"]["kl"] for run in each}, dtype=float) for each in (own, free))
    found = seeds.share("kl_share", kl, others, name)
    pairs = [(run, other) for run in own for other in free if run["seed"] == other["seed"]]
    if len(pairs) == 1 and math.isfinite(found["kl_share"]):
        run, other = pairs[0]
        rest = np.subtract(run["values"]["kl"], found["kl_share"] * np.array(other["values"]["kl"]))
        half = seeds.Z95 * clustered(rest, np.array(run["values"]["prompt"]))[1] / other["statistics"]["kl"]
        found |= {"kl_share_low": found["kl_share"] - half, "kl_share_high": found["kl_share"] + half}
    return found


def _outcome(row: Mapping[str, Any]) -> str:
    if not row["seeds"]:
        return "diverged"
    if row["combination"] in (UNTRAINED, NONE) or math.isnan(row["kl_share"]):
        return ""
    return seeds.told(row, "kl_share", "holds", "not told", "does not hold", of=HALF)


def texts_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Some completions of each policy."""
    import pandas as pd

    return pd.DataFrame([
        {"combination": run["combination"], "seed": run["seed"]} | text for run in runs for text in run["texts"]
    ])  # fmt: skip
