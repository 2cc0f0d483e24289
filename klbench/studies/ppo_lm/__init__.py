"""PPO on language models."""

from klbench.study import Study

STUDY = Study(
    "ppo_lm",
    "language models trained with each combination",
    __name__,
    options_at="klbench.studies.language.options:PpoLmOptions",
    summarize_at=".run:summarize",
    tables_at="klbench.studies.language.columns:PPO",
    complete_at="klbench.studies.language.tables:complete",
    section_at="klbench.studies.language.section:PPO",
    devices=("cpu", "cuda"),
    shares=True,
)
