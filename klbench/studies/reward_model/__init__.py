"""Over-optimisation of reward models learned from preferences."""

from klbench.study import Study

STUDY = Study(
    "reward_model",
    "over-optimisation of reward models learned from ranked pairs",
    __name__,
    options_at=".options:RewardModelOptions",
    summarize_at=".run:summarize",
)
