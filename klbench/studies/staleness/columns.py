"""The tables of the staleness study, from ``columns.yaml``."""

from __future__ import annotations

import math

from klbench.columns import COMBINATIONS, declared
from klbench.rows import Row

OWN = STALENESS, CORRECTIONS, CHOICES, OVER_SEEDS = declared(__file__)
TABLES = (*OWN, COMBINATIONS)


def error_in(batch: float, bias: float, noise: float) -> float:
    """Return the root of ``bias^2 + noise^2 / batch``, in the unit of both."""
    return math.sqrt(bias**2 + noise**2 / batch)


def to_the_sampler(row: Row) -> bool:
    """Return whether a penalty is to the sampler, which is none to the reference."""
    return " to the " in row["estimator"]
