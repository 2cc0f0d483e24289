"""PPO on enumerable policies, against the exact optimum."""

from klbench.study import Study

STUDY = Study(
    "ppo",
    "policies trained with each combination, against the exact optimum",
    __name__,
    options_at=".options:TrainingOptions",
    summarize_at=".run:summarize",
    complete_at=".verdicts:complete",
    aliases=("training",),
)
