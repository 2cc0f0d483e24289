"""The tables of distillation of language models."""

from __future__ import annotations

from dataclasses import replace

from klbench.schema import Column, Schema, integer, text, with_error
from klbench.studies.distill.columns import ARM, FINAL, KL, KL_PQ, REACHED, SEED

OWN_STATES = "mean over completions of the student of their tokens' exact KLs"

TRAINING = Schema(
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

TABLES = (TRAINING, LM_FINAL)
