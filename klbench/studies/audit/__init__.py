"""Audits of functions, as ``klbench audit --out`` writes them."""

from klbench.study import Study

STUDY = Study(
    "audit",
    "what KL functions and losses compute, and what is wrong with them (`klbench audit --out DIR`)",
    __name__,
    options_at=".run:AuditOptions",
)
