"""DPO on enumerable policies, against the exact optimum."""

from klbench.study import Study

STUDY = Study(
    "dpo",
    "DPO from ranked pairs, by their number and by divergence, against the exact optimum",
    __name__,
    options_at=".options:DpoOptions",
    summarize_at=".run:summarize",
    complete_at=".tables:complete",
)
