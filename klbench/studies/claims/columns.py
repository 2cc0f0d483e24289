"""The table of the claims study."""

from __future__ import annotations

from klbench.schema import Column, Schema, text

CLAIMS = Schema(
    "claims",
    "One row for each thing that is said of KL estimators: its formula, who says it, and what was found.",
    (
        text("claim", "name of the claim in klbench"),
        text("statement", "what is said, in a sentence"),
        text("verdict", "holds, fails, or holds only under a condition, which it names"),
        text("evidence", "what was computed, with its numbers"),
        text("source", "who says it"),
        text("tex", "the formula, in TeX"),
        text("topic", "values, gradients, alignment or distillation"),
        Column("value", "the number that decides: a deviation that has to be small"),
        Column("bound", "the largest such number at which the claim would hold"),
    ),
)

TABLES = (CLAIMS,)
