"""Distillation of language models."""

from klbench.study import Study

STUDY = Study(
    "distill_lm",
    "language models distilled from a teacher with each objective",
    __name__,
    options_at=".options:DistillLmOptions",
    summarize_at=".run:summarize",
    tables_at="klbench.studies.distill.columns:LM_TABLES",
    section_at="klbench.studies.distill.section_lm:SECTION",
)
