"""The gradient of each combination against the exact ones."""

from klbench.studies.gradient import run as run  # which registers the study
