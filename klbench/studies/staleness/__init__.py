"""A sampler that lags behind the policy."""

from klbench.studies.staleness import run as run  # which registers the study
