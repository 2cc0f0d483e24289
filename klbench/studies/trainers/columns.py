"""The tables of the trainers study, from ``columns.yaml``."""

from __future__ import annotations

import re

from klbench.columns import declared

TABLES = TRAINERS, LAW, DEFAULTS, CHANGES = declared(__file__)

LENGTHS = (4, 16, 64, 256, 1024)
"""Lengths that gradients are followed to, in tokens."""
SHOWN = (4, 64, 1024)
"""Those of them that have a column of their own."""
YES, NO = "yes", "no"
NOTHING = "nothing"
"""Stands for the kind of a difference, where there is none."""


def version_key(version: str) -> tuple[int, ...]:
    """Return what sorts versions by age."""
    return tuple(map(int, re.findall(r"\d+", version)))
