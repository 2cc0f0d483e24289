"""Distillation: a teacher in the reference's place, and what its objectives are off by."""

from klbench.study import Study

STUDY = Study(
    "distill",
    "distillation from a teacher: the bias and noise of each objective, and what is reached",
    __name__,
    options_at=".options:DistillOptions",
    summarize_at=".run:summarize",
)
