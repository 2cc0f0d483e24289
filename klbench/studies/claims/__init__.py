"""What is commonly said of KL estimators, checked."""

from klbench.studies.claims import run as run  # which registers the study
