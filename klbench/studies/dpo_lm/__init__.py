"""DPO on language models."""

from klbench.studies.dpo_lm import run as run  # which registers the study
