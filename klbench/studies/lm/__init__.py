"""Estimators on completions of language models, token by token."""

from klbench.study import Study

STUDY = Study(
    "lm",
    "estimators on completions, token by token",
    __name__,
    options_at=".options:LmOptions",
    summarize_at=".run:summarize",
    complete_at=".verdicts:complete",
    devices=("cpu", "cuda"),
    shares=True,
)
