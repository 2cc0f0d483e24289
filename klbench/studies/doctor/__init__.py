"""A diagnosis of recorded rollouts."""

from klbench.study import Study

STUDY = Study(
    "doctor",
    "what is going on in a run: recorded log-probabilities, checked, and the cause named",
    __name__,
    options_at=".options:DoctorOptions",
    summarize_at=".run:summarize",
)
