"""The functions of other libraries beside klbench's."""

from klbench.study import Study

STUDY = Study(
    "peers",
    "the functions of TRL, verl, OpenRLHF, Liger, torch and SciPy beside klbench's",
    __name__,
    options_at=".options:PeersOptions",
    summarize_at=".run:summarize",
    complete_at=".verdicts:complete",
)
