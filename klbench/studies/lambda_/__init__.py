"""The best lambda for the value and for the gradient."""

from klbench.studies.lambda_ import run as run  # which registers the study
