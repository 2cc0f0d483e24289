"""What all benchmarks share: one thread, time on the processor, rounds by the clock, and a row each in the history."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

SETTINGS = {
    "timer": time.process_time,  # time on the processor: a neighbour that takes the core away for a while then costs nothing
    "min_time": 2e-3,  # a round; shorter calls are repeated to fill it, and how often is found before it counts
    "max_time": 0.25,  # all rounds
    "min_rounds": 5,
    "warmup": True,
    "warmup_iterations": 10,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--history", type=Path, metavar="FILE", help="append a row a benchmark to this Parquet file")
    parser.addoption("--budget", type=float, metavar="SECONDS", help=f"time for a benchmark's rounds ({SETTINGS['max_time']})")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """All have the settings above, and what their own marker says; heavy ones, minutes each, run where ``-m`` asks for them."""
    if "heavy" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("heavy")])
        items[:] = [item for item in items if not item.get_closest_marker("heavy")]
    budget = {} if config.option.budget is None else {"max_time": config.option.budget}
    for item in items:
        own = item.get_closest_marker("benchmark")
        item.add_marker(pytest.mark.benchmark(**SETTINGS | budget | (own.kwargs if own else {})))


@pytest.fixture(autouse=True)
def _one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every library on one thread; the heavy ones choose for themselves."""
    if request.node.get_closest_marker("heavy"):
        yield
        return
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Where the klbench that was timed lies, so that a comparison can be sure of it."""
    import klbench

    output_json["klbench"] = str(Path(klbench.__file__).parent.parent)


def pytest_sessionfinish(session: pytest.Session) -> None:
    file, timed = session.config.option.history, session.config._benchmarksession.benchmarks
    if file is not None and timed and not hasattr(session.config, "workerinput"):
        from history import append, rows

        append(file, rows(timed))
        print(f"\n{len(timed)} rows added to {os.path.relpath(file)}")
