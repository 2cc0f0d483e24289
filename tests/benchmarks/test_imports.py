"""Every module of benchmarks/ can be imported: few of them run in the tests."""

import importlib
from pathlib import Path

import pytest

MODULES = sorted(
    path.stem
    for path in (Path(__file__).parents[2] / "benchmarks").glob("*.py")
    if path.stem != "conftest"
)


@pytest.mark.parametrize("name", MODULES)
def test_a_benchmark_can_be_imported(name: str) -> None:
    assert importlib.import_module(name).__doc__
