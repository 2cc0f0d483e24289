"""DPO on language models."""

from klbench.studies import language

STUDY = language.study("dpo_lm", "language models trained on ranked pairs", __name__, "dpo")
