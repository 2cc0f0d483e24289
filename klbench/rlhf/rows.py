"""The rows of training as a table, the same for every study that trains policies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import pandas as pd
from torch import Tensor

from klbench import gradients
from klbench.rlhf.options import NONE

FIRST = (
    "algorithm combination arm estimator placement level correction baseline beta proxy pairs seed"
    " step reward gold kl kl_estimate kl_estimate_se k1_estimate k3_estimate objective regret"
    " kl_to_optimum kl_to_own"
).split()
"""The columns that come first, those of them that a study has."""


@cache
def described(name: str) -> Mapping[str, Any]:
    """Return the parts of a combination, under the names of its columns."""
    parts = ("estimator", "placement", "level", "correction", "baseline")
    if name == NONE:
        return {"combination": NONE} | dict.fromkeys(parts, NONE)
    combination = gradients.get(name)
    return {"combination": name} | {part: getattr(combination, part) for part in parts}


def by_replica(values: Mapping[str, Tensor]) -> list[list[dict[str, Any]]]:
    """Return the values of each arm and seed, ``(arms, seeds)``, by name."""
    plain = {name: tensor.tolist() for name, tensor in values.items()}
    arms, seeds = next(iter(values.values())).shape
    return [
        [{name: column[i][j] for name, column in plain.items()} for j in range(seeds)]
        for i in range(arms)
    ]


def training_table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return one row an arm, seed and evaluation."""
    table = pd.DataFrame(rows)
    first = [name for name in FIRST if name in table]
    return table[[*first, *(name for name in table if name not in first)]]
