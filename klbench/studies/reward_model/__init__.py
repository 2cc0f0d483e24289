"""Over-optimisation of reward models learned from preferences."""

from klbench.studies.reward_model import run as run  # which registers the study
