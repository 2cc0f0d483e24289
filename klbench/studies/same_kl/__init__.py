"""Pairs of one KL and another shape."""

from klbench.study import Study

STUDY = Study(
    "same_kl",
    "pairs of one KL and another shape: where k3 beats k1",
    __name__,
    options_at=".options:SameKlOptions",
    summarize_at=".run:summarize",
)
