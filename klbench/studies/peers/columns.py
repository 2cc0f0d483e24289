"""The tables of the comparison with other libraries, from ``columns.yaml``."""

from __future__ import annotations

from klbench.columns import declared

HERE = "klbench"
LOST = 0.01
"""A relative error of this or more leaves little of a value."""

TABLES = PEERS, SPEED, VERDICTS = declared(__file__)
