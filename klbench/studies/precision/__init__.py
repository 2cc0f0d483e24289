"""Rounding errors by dtype."""

from klbench.study import Study

STUDY = Study(
    "precision",
    "rounding error against |log r| in each dtype",
    __name__,
    options_at=".options:PrecisionOptions",
)
