"""The tables of the study over length, from ``columns.yaml``."""

from __future__ import annotations

from klbench.columns import COMBINATIONS, declared

Z95 = 1.96
"""Standard errors of a 95 % interval in these tables and their figures."""

OWN = HORIZON, SAMPLED, FAMILIES, GAPS, LEVELS, CROSSINGS, BOUNDS, MARKS = declared(__file__)
TABLES = (*OWN, COMBINATIONS)
