"""The tables of the distillation study."""

from __future__ import annotations

from dataclasses import replace

from klbench.schema import Column, Schema, flag, integer, interval, text, with_error

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

AT, BESIDE, NOWHERE = "at the teacher", "beside the teacher", "nowhere"
"""The places where free students come to rest."""

ARM = (
    text(
        "arm",
        "what is trained: the objective, its support and k, and @teacher at the teacher's states",
        "Trained",
    ),
    text("objective", "name of the objective"),
    text("support", "whose most probable tokens are kept; empty: it has no support"),
    integer("k", "tokens that are kept; without a support, those whose mass is told", "k"),
    text(
        "prefixes",
        "who writes the sequences at whose states it is taken: student or teacher",
        "Prefixes",
    ),
)
SEED = integer("seed", "number of the replica; it draws the teacher, the student and all samples")
KL = Column(
    "kl",
    "KL(q‖p) of the student to the teacher, of whole sequences, exact",
    "nats",
    heading="KL(q‖p)",
)
KL_PQ = Column("kl_pq", "KL(p‖q) of whole sequences, exact", "nats", heading="KL(p‖q)")
REACHED = (
    KL,
    KL_PQ,
    Column(
        "mass",
        "student's probability of the teacher's k most probable tokens, mean over the student's tokens",
    ),
    Column("own_mass", "student's probability of its own k most probable tokens"),
    Column(
        "teacher_mass", "teacher's probability of its k most probable tokens, at the same states"
    ),
)

TRAINING = Schema(
    "distill_training",
    "One row for each arm, seed and evaluation of the students in training.",
    (
        *ARM,
        SEED,
        *REACHED,
        integer("step", "updates so far"),
        text("status", "ok, or when and why the student diverged: it stands still from then on"),
    ),
    optional=True,
)

REST = Schema(
    "distill_rest",
    "One row for each arm and seed: a free student, a logit for each token after each prefix, at the end of exact gradients.",
    (
        *ARM,
        SEED,
        *REACHED,
        Column("moved", "change of its KL(q‖p) over the last quarter of the steps", "nats"),
    ),
    optional=True,
)


def _lost(stem: str) -> tuple[Column, ...]:
    where = "of a free student at rest" if stem else "after training"
    return (
        Column(
            f"{stem}mass",
            f"student's probability of its support {where}; without one, of its own k",
            heading="Mass",
        ),
        Column(
            f"{stem}teacher_mass",
            f"teacher's probability of its own k, at the states {where}",
            heading="Teacher's mass",
        ),
        *interval(
            Column(
                f"{stem}mass_lost",
                "the teacher's less the student's, seed by seed",
                heading="Mass lost",
            )
        ),
    )


FINAL = Schema(
    "distill_final",
    "One row for each arm: where training ended, over the seeds that did not diverge, and where a free student rests.",
    (
        *ARM,
        integer("seeds", "seeds that did not diverge, over which the means are", "Seeds"),
        integer("diverged", "seeds that diverged"),
        Column("start_kl", "KL(q‖p) before training", "nats", heading="KL before"),
        *interval(replace(KL, meaning=f"{KL.meaning}, after training")),
        *interval(
            Column(
                "difference",
                "KL(q‖p) less that of the first arm, seed by seed",
                "nats",
                heading="Against the first",
            ),
            seeds=True,
        ),
        *interval(replace(KL_PQ, meaning=f"{KL_PQ.meaning}, after training")),
        *_lost(""),
        text(
            "outcome",
            "nearer to the teacher than the first arm, farther, or not told apart",
            "Outcome",
        ),
        *interval(
            Column(
                "rest_kl",
                "KL(q‖p) at which a free student rests on exact gradients",
                "nats",
                heading="Rests at",
            )
        ),
        *_lost("rest_"),
        Column(
            "rest_moved",
            "change of it over the last quarter of the steps, largest over seeds",
            "nats",
        ),
        text("rests", "where: at the teacher, beside the teacher, or nowhere", "Rests"),
    ),
    optional=True,
)

TABLES = (DISTILL, TRAINING, REST, FINAL)

OWN_STATES = "mean over completions of the student of their tokens' exact KLs"

LM_TRAINING = Schema(
    "distill_lm_training",
    "One row for each arm, seed and evaluation of the students in training.",
    (
        *ARM,
        SEED,
        integer("step", "updates so far"),
        *with_error(replace(KL, meaning=f"KL(q‖p) to the teacher: {OWN_STATES}")),
        *with_error(
            replace(KL_PQ, meaning=f"KL(p‖q) at the states of the student: {OWN_STATES}"),
        ),
        *REACHED[2:],
        Column("loss", "the loss of the last batch, a completion", "nats"),
        text("status", "ok, or when and why the student diverged: it stands still from then on"),
    ),
)

LM_FINAL = Schema(
    "distill_lm_final",
    "One row for each arm: where training ended, over the seeds that did not diverge.",
    tuple(column for column in FINAL.columns if not column.name.startswith("rest")),
)

LM_TABLES = (LM_TRAINING, LM_FINAL)
"""The tables of distillation of language models."""
