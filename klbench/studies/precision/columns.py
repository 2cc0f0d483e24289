"""The table of the precision study, from ``columns.yaml``."""

from __future__ import annotations

from klbench.columns import declared

TABLES = (PRECISION,) = declared(__file__)
