"""The functions of other libraries beside klbench's."""

from klbench.studies.peers import run as run  # which registers the study
