"""What all benchmarks share.

One thread, time on the processor, rounds by the clock, and a row each in the history.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import processor

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of what is yet to be loaded, torch among it

SETTINGS = {
    "timer": processor.seconds,
    # a round; shorter calls are repeated to fill it, and how often is found before it counts
    "min_time": 2e-3,
    "max_time": 0.25,  # all rounds
    "min_rounds": 5,
    "warmup": True,
    "warmup_iterations": 10,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--history", type=Path, metavar="FILE", help="append a row a benchmark to this Parquet file"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """All have the settings above, and what their own marker says.

    Heavy ones, minutes each, run where ``-m`` asks for them.
    """
    if "heavy" not in config.option.markexpr:
        config.hook.pytest_deselected(
            items=[item for item in items if item.get_closest_marker("heavy")]
        )
        items[:] = [item for item in items if not item.get_closest_marker("heavy")]
    for item in items:
        own = item.get_closest_marker("benchmark")
        item.add_marker(pytest.mark.benchmark(**SETTINGS | (own.kwargs if own else {})))


@pytest.fixture(autouse=True)
def _one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every library on one thread; the heavy ones choose for themselves."""
    if request.node.get_closest_marker("heavy"):
        yield
        return
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def pytest_sessionfinish(session: pytest.Session) -> None:
    file = session.config.option.history
    if file is not None and (timed := session.config._benchmarksession.benchmarks):
        from history import append, rows

        append(file, rows(timed))
        print(f"\n{len(timed)} rows added to {os.path.relpath(file)}")
