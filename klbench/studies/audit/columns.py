"""The tables of audits, from ``columns.yaml``."""

from __future__ import annotations

from klbench.audit.findings import FROM_FILE as FROM_FILE
from klbench.columns import declared

TABLES = AUDIT, FINDINGS, VALUES = declared(__file__)

RIGHT, WARNED, WRONG, REFUSED = "right", "warning", "wrong", "not audited"
"""Verdicts: nothing worse than a note, a warning, an error, and not audited."""
