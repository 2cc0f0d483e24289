"""A sampler that lags behind the policy."""

from klbench.study import Study

STUDY = Study(
    "staleness",
    "a sampler that lags behind: bias and noise of each correction",
    __name__,
    options_at=".options:StalenessOptions",
    summarize_at=".run:summarize",
    complete_at=".tables:complete",
)
