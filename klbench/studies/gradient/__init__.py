"""The gradient of each combination against the exact ones."""

from klbench.study import Study

STUDY = Study(
    "gradient",
    "what each combination's gradient is, against the exact ones",
    __name__,
    options_at=".options:GradientOptions",
    summarize_at=".run:summarize",
    complete_at=".tables:complete",
)
