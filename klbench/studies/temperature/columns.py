"""The table of the temperature study, from ``columns.yaml``."""

from __future__ import annotations

from klbench.columns import declared

TABLES = (TEMPERATURE,) = declared(__file__)
