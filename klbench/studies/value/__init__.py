"""Bias, variance and coverage of the estimators' values."""

from klbench.studies.value import run as run  # which registers the study
