"""The table of the claims study, from ``columns.yaml``."""

from __future__ import annotations

from klbench.columns import declared

TABLES = (CLAIMS,) = declared(__file__)
