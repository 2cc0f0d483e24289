"""The terminal: a progress bar with the time left, and the summary of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from klbench.studies import Summary


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


def print_summary(summaries: Sequence[Summary]) -> None:
    """Small tables, one below the other."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if Console().is_terminal else 110)
    for summary in summaries:
        out = Table(title=Text(summary.title, style="italic"), title_justify="left", box=None)
        for name in summary.columns:
            out.add_column(Text(name.removeprefix(">")), justify="right" if name.startswith(">") else "left")
        for row in summary.rows:
            out.add_row(*map(Text, row))
        if summary.rows:
            console.print(out)
        for note in summary.notes:
            console.print(f" {note}", markup=False, highlight=False)
        console.print()
