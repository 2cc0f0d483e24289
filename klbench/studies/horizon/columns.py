"""The tables of the study over length, from ``columns.yaml``."""

from __future__ import annotations

from klbench.columns import COMBINATIONS, declared

OWN = HORIZON, SAMPLED, FAMILIES, GAPS, LEVELS, CROSSINGS, BOUNDS, MARKS = declared(__file__)
TABLES = (*OWN, COMBINATIONS)
