"""What the tests of the report share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_runs import LABEL, tables, write


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """``make_run(name, tables, config, **info)`` writes a run folder."""

    def make(
        name: str = "run", content: dict[str, pd.DataFrame] | None = None, **others: Any
    ) -> Path:
        return write(tmp_path / name, tables() if content is None else content, **others)

    return make


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a hostile label, rendered once; tests read it and leave it as it is."""
    from klbench.report import render

    folder = write(
        tmp_path_factory.mktemp("report") / "run",
        tables(label=LABEL),
        config="label: </pre><script>alert(2)</script>\n",
    )
    return render(folder).parent
