"""DPO on language models."""

from klbench.study import Study

STUDY = Study(
    "dpo_lm",
    "language models trained on ranked pairs",
    __name__,
    options_at="klbench.studies.language.options:DpoLmOptions",
    summarize_at=".run:summarize",
    tables_at="klbench.studies.language.columns:DPO",
    complete_at="klbench.studies.language.tables:complete",
    section_at="klbench.studies.language.section:DPO",
    devices=("cpu", "cuda"),
    shares=True,
)
