"""A plugin of pytest's for one side of a comparison.

A benchmark is timed in short blocks, each when it is this side's turn.

It talks in lines to :mod:`compare`. This side says ``has NAME`` for each benchmark and ``hello
PATH`` (whose klbench it times), and hears the names of those to run and an empty line. At each one
it says ``ready NAME``; then it answers each ``go`` with the seconds of a call, until it hears
``next``.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processor
import pytest

BLOCK = 4e-3
"""Seconds of a block, about.

Far more than the clock's steps, far less than what most disturbances last.
"""
WARM = 3


class Channel:
    """Lines to and from the other end of a socket."""

    def __init__(self, end: socket.socket) -> None:
        self._end, self._lines = end, end.makefile("r", encoding="utf-8")

    def say(self, *lines: str) -> None:
        self._end.sendall("".join(f"{line}\n" for line in lines).encode())

    def hear(self) -> str:
        """The next line; empty where the other end is gone."""
        return self._lines.readline().rstrip("\n")

    def close(self) -> None:
        self._lines.close()
        self._end.close()

    def hear_all(self) -> list[str]:
        """Lines up to an empty one."""
        return list(iter(self.hear, ""))


class Lockstep:
    """What a benchmark gets as its ``benchmark``."""

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel, self._name = channel, name

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)  # compiles, loads

        def block(calls: int) -> float:
            start = processor.seconds()
            for _ in range(calls):
                function(*args, **kwargs)
            return processor.seconds() - start

        took = min(block(1) for _ in range(WARM))
        calls = max(1, round(BLOCK / max(took, 1e-7)))
        calls = max(1, round(calls * BLOCK / max(block(calls), 1e-7)))
        self._channel.say(f"ready {self._name}")
        while self._channel.hear() == "go":
            self._channel.say(f"{block(calls) / calls:.9e}")
        return result


def name_of(item: pytest.Item) -> str:
    return item.nodeid.removeprefix("benchmarks/")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lockstep", type=int, required=True, metavar="FD", help="the socket")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "benchmark: settings of pytest-benchmark, which is not in use now"
    )
    config.channel = Channel(socket.socket(fileno=config.option.lockstep))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import klbench

    config.channel.say(
        *(f"has {name_of(item)}" for item in items), f"hello {Path(klbench.__file__).parent.parent}"
    )
    known = {name_of(item): item for item in items}
    items[:] = [known[name] for name in config.channel.hear_all()]


@pytest.fixture
def benchmark(request: pytest.FixtureRequest) -> Lockstep:
    return Lockstep(request.config.channel, name_of(request.node))
