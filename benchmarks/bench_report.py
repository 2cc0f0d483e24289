"""Rendering: the page of a value run with all its figures, and one figure's drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from klbench import pairs, report, studies
from klbench.context import Context
from klbench.runs import RunFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    study = studies.get("value")
    shifts = tuple(
        pairs.get("gaussian")(q={"mean": 0.0}, p={"mean": shift}, series="shift")
        for shift in (0.1, 0.5, 1.0)
    )
    options = study.options(
        pairs=shifts, estimators=("k1", "k2", "k3"), samples=20_000, batches=(1, 64)
    )
    made = RunFolder(path)
    made.begin(status="done", experiment="value", study="value", seed=0)
    made.write_tables(study.run(options, Context(seed=0)))
    return path


@pytest.mark.benchmark(min_rounds=3)
def bench_page(folder: Path, benchmark: Any) -> None:
    assert benchmark(report.render, folder).is_file()


def bench_drawing(benchmark: Any) -> None:
    from klbench.report.figures import drawing

    def draw() -> str:
        with drawing() as (axes, svg):
            axes.plot([1.0, 2.0, 3.0], [1.0, 4.0, 9.0])
        return svg[0]

    assert "<svg" in benchmark(draw)
