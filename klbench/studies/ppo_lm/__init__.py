"""PPO on language models."""

from klbench.studies import language

STUDY = language.study("ppo_lm", "language models trained with each combination", __name__, "ppo")
