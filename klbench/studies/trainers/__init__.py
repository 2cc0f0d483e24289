"""Trainers' options, release by release: audits of their wheels beside what klbench knows."""

from klbench.study import Study

STUDY = Study(
    "trainers",
    "what trainers' KL options compute, release by release (`make trainers`)",
    __name__,
    options_at=".options:TrainersOptions",
    summarize_at=".run:summarize",
)
