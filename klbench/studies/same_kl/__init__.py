"""Pairs of one KL and another shape."""

from klbench.studies.same_kl import run as run  # which registers the study
