"""Rounding errors by dtype."""

from klbench.studies.precision import run as run  # which registers the study
