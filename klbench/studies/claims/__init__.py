"""The common claims about KL estimators, checked."""

from klbench.study import Study

STUDY = Study(
    "claims",
    "what is said about KL estimators, checked one by one",
    __name__,
    options_at=".options:ClaimsOptions",
    summarize_at=".run:summarize",
)
