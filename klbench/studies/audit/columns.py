"""The tables of audits."""

from __future__ import annotations

from klbench.audit.findings import FROM_FILE as FROM_FILE
from klbench.schema import Column, Schema, integer, text

TARGET = text("target", "what names the function", "Function")

AUDIT = Schema(
    "audit",
    "One row for each function: what it was found to be, and how many findings there are.",
    (
        TARGET,
        text("library", "distribution that it is of; empty for a function of one's own", "Library"),
        text("version", "version of the distribution", "Version"),
        text("function", "its name", "Function"),
        text("options", "values of its parameters, as key=value", "Options"),
        text(
            "taken", "imported, or from its file by the syntax tree where an import failed", "Taken"
        ),
        text("used_as", "what it was audited as: kl, reward or loss", "As"),
        text("arguments", "what each parameter was taken for"),
        text("identified", "estimator that it is; empty where it is none that is known", "It is"),
        Column("scale", "factor of the estimator", heading="Times"),
        text("divergence", "divergence that it estimates", "Estimates"),
        Column("clamp_low", "log-ratio below which it is constant", "nats"),
        Column("clamp_high", "log-ratio above which it is constant", "nats"),
        text("weight", "its weight by the policy that sampled"),
        text("reduction", "how tokens become what it gives back", "Reduction"),
        text("level", "token or sequence"),
        text("matches", "divergence whose gradient its expected gradient is", "Gradient"),
        text(
            "gradient_level", "token: of each token's own divergence; sequence: of the whole one's"
        ),
        text("off_policy", "matches, where an older policy samples"),
        text("combination", "combination with the same gradient sample by sample"),
        Column("rel_bias_near", "relative distance of the gradient from KL(q‖p)'s at 0.05 nats"),
        Column("rel_bias_far", "relative distance of the gradient from KL(q‖p)'s at 2 nats"),
        text(
            "same_as", "estimators with the same values, and trainers' names of the same gradient"
        ),
        integer("errors", "findings that are errors", "Errors"),
        integer("warnings", "findings that are warnings", "Warnings"),
        integer("notes", "findings that are notes", "Notes"),
        integer("checks", "checks that were made"),
        text("verdict", "right, warning, wrong, or not audited", "Verdict"),
        text("status", "ok, or why it was not audited"),
    ),
)

FINDINGS = Schema(
    "audit_findings",
    "One row for each finding.",
    (
        TARGET,
        text("kind", "kind of the finding", "Kind"),
        text("severity", "error, warning or note", "Severity"),
        text("message", "what was found, in a sentence", "Finding"),
        text("evidence", "the input, what came, and what should have, as JSON", "Evidence"),
        integer("line", "line of the function in its file", "Line"),
    ),
)

VALUES = Schema(
    "audit_values",
    "One row for each function and log-ratio: its value where tokens are equal, and the right one.",
    (
        TARGET,
        Column("log_ratio", "log p - log q of every token", "nats"),
        Column("value", "value of a token", "nats"),
        Column("right", "value of the estimator that it is meant to be", "nats"),
        text("right_name", "that estimator"),
    ),
)

TABLES = (AUDIT, FINDINGS, VALUES)

RIGHT, WARNED, WRONG, REFUSED = "right", "warning", "wrong", "not audited"
"""Verdicts: nothing worse than a note, a warning, an error, and not audited."""
