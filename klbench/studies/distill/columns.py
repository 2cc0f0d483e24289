"""The tables of the distillation study."""

from __future__ import annotations

from klbench.schema import Column, Schema, flag, integer, text, with_error

DISTILL = Schema(
    "distill",
    "One row for each pair, objective, support and k: its value and its gradient, beside those that it stands for.",
    (
        text("pair", "student q and teacher p", "Pair"),
        text("series", "pairs that belong together", "Series"),
        text(
            "objective",
            "name of the objective; topk_* are KL(q‖p) unless they say kl_pq",
            "Objective",
        ),
        text("support", "whose most probable tokens are kept: student or teacher", "Support"),
        integer(
            "k", "tokens that are kept after each prefix; a smaller vocabulary is kept whole", "k"
        ),
        Column(
            "mass",
            "probability that the student gives the kept tokens, mean over its tokens",
            heading="Student's mass",
        ),
        Column(
            "teacher_mass", "the same of the teacher, at the same states", heading="Teacher's mass"
        ),
        text("target", "the full objective that it is held to", "Stands for"),
        Column("truth", "the target's value, nats a sequence", "nats", heading="Exact"),
        *with_error(
            Column("value", "its expected estimate, nats a sequence", "nats", heading="Value")
        ),
        *with_error(
            Column(
                "value_bias",
                "its expected estimate less the target's value",
                "nats",
                heading="Value off by",
            )
        ),
        Column(
            "negative", "share of tokens at which its estimate is below zero", heading="Negative"
        ),
        *with_error(
            Column(
                "rel_bias",
                "distance of its mean gradient from the target's, over that one's length, in the student's logits, with the "
                "support held fixed; of a language model, of the gradients of single states",
                heading="Gradient off by",
            )
        ),
        Column(
            "rel_std",
            "noise of one sequence's gradient, over the target's length; of a language model, of a token's given its state",
            heading="Noise",
        ),
        integer(
            "bytes_per_token",
            "what the teacher sends for each token: float32 log-probabilities, and int32 ids of a support",
            heading="Bytes a token",
        ),
        flag(
            "unbiased",
            "whether its mean gradient is the target's, up to rounding, or to 5 standard errors of a sampled one",
            "Unbiased",
        ),
        text(
            "status",
            "ok, infinite, undefined (no mass to renormalise), no gradient (student and teacher are equal), or what it needs",
            "Status",
        ),
        text("method", "enumeration or sampling", "Method"),
        integer("samples", "completions that were drawn; 0 where none was needed"),
    ),
)

TABLES = (DISTILL,)
