"""The tables of a diagnosis, from ``columns.yaml``: the doctor's page and that of recorded rollouts have them."""

from __future__ import annotations

from klbench.columns import declared

TABLES = DIAGNOSIS, CAUSES, MUST_HOLD, LINES, MASKS, SAID, STEPS, DIFFERENCES = declared(__file__)
