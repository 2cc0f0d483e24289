"""PPO on language models."""

from klbench.studies.ppo_lm import run as run  # which registers the study
