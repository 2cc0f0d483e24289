"""Estimators on completions of language models, token by token."""

from klbench.studies.lm import run as run  # which registers the study
