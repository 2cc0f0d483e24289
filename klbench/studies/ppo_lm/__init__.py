"""PPO on language models."""

from klbench.study import Study

STUDY = Study(
    "ppo_lm",
    "language models trained with each combination",
    __name__,
    options_at="klbench.studies.language.options:PpoLmOptions",
    summarize_at=".run:summarize",
    tables_at="",
    section_at="klbench.studies.language.section:SECTION",
    devices=("cpu", "cuda"),
    shares=True,
)
