"""Terms a second."""

from klbench.studies.throughput import run as run  # which registers the study
