"""PPO on enumerable policies, against the exact optimum."""

from klbench.studies.ppo import run as run  # which registers the study
