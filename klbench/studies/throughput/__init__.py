"""Terms a second."""

from klbench.study import Study

STUDY = Study(
    "throughput",
    "terms a second on NumPy and torch",
    __name__,
    options_at=".options:ThroughputOptions",
    devices=("cpu", "cuda"),
)
