"""The tables of the gradient study, from ``columns.yaml``."""

from __future__ import annotations

from klbench.columns import COMBINATIONS, declared

OWN = GRADIENTS, VERDICTS, OPTIONS, ARROWS = declared(__file__)
TABLES = (*OWN, COMBINATIONS)

VERDICT = [column.name for column in VERDICTS.columns if column in OPTIONS.columns]
"""The columns of a verdict, which an option of a trainer has too."""
