"""The best lambda for the value and for the gradient."""

from klbench.study import Study

STUDY = Study(
    "lambda",
    "the best lambda for the value and for the gradient",
    __name__,
    options_at=".options:LambdaOptions",
    summarize_at=".run:summarize",
)
