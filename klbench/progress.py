"""The terminal: a progress bar with the time left, and the summary of a run."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("estimator", "left"), ("target", "left"), ("truth", "right"), ("bias, 95% interval", "right"),
    ("std", "right"), ("rmse", "right"), ("flag", "left"),
)  # fmt: skip


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """A function ``(done, total, what)`` that moves a bar on a terminal, and does nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total, what: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting")
        yield lambda done, total, what: progress.update(task, completed=done, total=total, description=what[:40])


def _digits(value: float, uncertainty: float) -> str:
    """The value to the second digit of its uncertainty."""
    if not math.isfinite(value):
        return f"{value}"
    if not (math.isfinite(uncertainty) and uncertainty > 0):
        return f"{value:.3g}"
    places = max(0, 1 - math.floor(math.log10(uncertainty)))
    return f"{value:.{min(places, 12)}f}"


def _with_interval(value: float, standard_error: float) -> str:
    half = 1.96 * standard_error
    return f"{_digits(value, half)} ± {_digits(half, half)}"


def print_summary(table: pd.DataFrame) -> None:
    """One row an estimator, for one pair or two of all; what was skipped is named below with its reason."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 110)
    titles = list(dict.fromkeys(table["pair"]))
    for title in dict.fromkeys([*titles[:1], *titles[len(titles) // 2 :][:1]]):
        skipped = table["status"].str.startswith("skipped")
        rows = table[(table["pair"] == title) & ~skipped]
        if rows.empty:
            continue
        first = rows.iloc[0]
        out = Table(
            title=f"{title}, batches of {first['batch']}, {first['samples']:,} samples (nats)", title_justify="left", box=None
        )
        for name, justify in COLUMNS:
            out.add_column(name, justify=justify)
        for row in rows.to_dict("records"):
            flag = "" if row["status"] == "ok" else row["status"]
            out.add_row(
                row["estimator"], row["target"], f"{row['truth']:.4g}", _with_interval(row["bias"], row["bias_se"]),
                f"{row['std']:.4g}", f"{row['rmse']:.4g}", flag,
            )  # fmt: skip
        console.print(out)
        for reason, group in table[(table["pair"] == title) & skipped].groupby("status", sort=False):
            console.print(f" {reason}: {', '.join(group['estimator'])}", markup=False, highlight=False)
        console.print()
    if len(titles) > 2:
        console.print(f"{len(titles) - 2} further pairs are in the report.")
