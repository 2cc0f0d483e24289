"""A Parquet file with a row a benchmark, commit and kind of machine.

``python -m klbench report --history`` draws it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from klbench.machine import describe, kind
from klbench.runs import atomic, now

if TYPE_CHECKING:
    import pandas as pd


def rows(timed: Iterable[Any]) -> pd.DataFrame:
    """What a session of pytest-benchmark found.

    Seconds of a call, of the processor's time, over the rounds.
    """
    import pandas as pd

    made = describe()
    git = made["git"] or {}
    shared = {
        "commit": git.get("revision", ""),
        "committed": git.get("committed", ""),
        "dirty": bool(git.get("dirty")),
        "machine": kind(),
        "measured": now(),
        "versions": json.dumps(made["versions"]),
    }
    found = []
    for each in timed:
        low, median, high = np.quantile(each.stats.data, [0.25, 0.5, 0.75])
        name = each.fullname.removeprefix("benchmarks/")
        own = {
            "benchmark": name,
            "seconds": median,
            "seconds_q25": low,
            "seconds_q75": high,
            "least": min(each.stats.data),
        }
        found.append(shared | own | {"rounds": len(each.stats.data), "calls": each.iterations})
    return pd.DataFrame(found)


def append(file: Path, more: pd.DataFrame) -> None:
    """Add rows to the file, or make it."""
    import pandas as pd

    before = [pd.read_parquet(file)] if file.exists() else []
    with atomic(file) as partial:
        pd.concat([*before, more], ignore_index=True).to_parquet(partial, index=False)
