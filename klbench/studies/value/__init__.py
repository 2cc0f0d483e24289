"""Bias, variance and coverage of the estimators' values."""

from klbench.study import Study

STUDY = Study(
    "value",
    "bias, variance and coverage of the estimators' values",
    __name__,
    options_at=".options:ValueOptions",
    summarize_at=".summary:summarize",
    complete_at=".ranking:complete",
)
