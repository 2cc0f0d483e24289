"""The tables of the trainers study."""

from __future__ import annotations

import re

from klbench.schema import Column, Schema, integer, text

LENGTHS = (4, 16, 64, 256, 1024)
"""Lengths that gradients are followed to, in tokens."""
SHOWN = (4, 64, 1024)
"""Those of them that have a column of their own."""
YES, NO = "yes", "no"
NOTHING = "nothing"
"""Stands for the kind of a difference, where there is none."""

RELEASE = (
    text("library", "distribution", "Library"),
    text("version", "its version", "Version"),
)

TRAINERS = Schema(
    "trainers",
    "One row for each release, function and value of its options.",
    (
        *RELEASE,
        text("function", "its name", "Function"),
        text("options", "values of its parameters, as key=value", "Options"),
        text("setting", "the same as translate takes it; empty where klbench has no row for it"),
        text(
            "default",
            "yes: these options have the release's own defaults, whatever the penalty's weight",
            "Default",
        ),
        text("identified", "estimator that its values are", "Value"),
        text("combination", "combination that its gradient is; empty: none has a name", "Gradient"),
        text(
            "agrees",
            "yes: what klbench.trainers says is what the audit found, sample by sample; empty: one"
            " of them does not say",
            "As known",
        ),
        text("matches", "divergence whose gradient its expected gradient is", "Is that of"),
        text("gradient_level", "token: of each token's own divergence; sequence: of the whole"),
        text("off_policy", "matches, where an older policy samples", "Off-policy"),
        Column("rel_bias_near", "relative bias of the gradient at 0.05 nats", heading="0.05 nats"),
        Column("rel_bias_far", "relative bias of the gradient at 2 nats", heading="2 nats"),
        *(
            Column(
                f"rel_bias_{tokens}",
                f"relative bias of the combination's gradient at {tokens:,} tokens, averages aside",
                heading=f"T = {tokens:,}",
            )
            for tokens in SHOWN
        ),
        text("clamp", "what is cut off, and what it costs", "Clamp"),
        text("dead", "where the gradient is 0", "Dead"),
        text("nonfinite", "where value or gradient are NaN or infinite", "NaN"),
        text("precision", "what rounding leaves of the value", "Precision"),
        text("masking", "whether masked tokens leak", "Mask"),
        text("status", "ok, or why it was not audited"),
    ),
)

LAW = Schema(
    "trainers_law",
    "One row for each combination and length: the bias of its gradient, root mean square over"
    " random policies that sample themselves.",
    (
        text("combination", "name, clamps kept and averages left out"),
        integer("tokens", "length of a sequence"),
        Column("kl_token", "KL(q‖p) of a token", "nats"),
        Column("rel_bias", "distance from the gradient of KL(q‖p), over the length of that"),
    ),
)

DEFAULTS = Schema(
    "trainers_defaults",
    "One row for each release and option: its default.",
    (
        *RELEASE,
        text("trainer", "trainer of klbench.trainers", "Trainer"),
        text("option", "path of the option", "Option"),
        text("default", "its default, as JSON", "Default"),
    ),
)

CHANGES = Schema(
    "trainers_changes",
    "One row for each difference of a release from the one before it.",
    (
        *RELEASE,
        text("before", "version that it is compared with", "Before"),
        text("what", "default, option, penalty, function, or nothing"),
        text("change", "the difference, in words", "Difference"),
    ),
)

TABLES = (TRAINERS, LAW, DEFAULTS, CHANGES)


def version_key(version: str) -> tuple[int, ...]:
    """Return what sorts versions by age."""
    return tuple(map(int, re.findall(r"\d+", version)))
