"""The law over length: bias and noise of each gradient from 2 tokens to thousands."""

from klbench.study import Study

STUDY = Study(
    "horizon",
    "bias and noise of each gradient against the length of the sequences",
    __name__,
    options_at=".options:HorizonOptions",
    summarize_at=".run:summarize",
)
