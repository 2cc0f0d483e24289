"""DPO on enumerable policies, against the exact optimum."""

from klbench.studies.dpo import run as run  # which registers the study
