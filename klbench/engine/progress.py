"""The terminal: a progress bar with the time left, and the summary of a run.

Lines where there is no terminal.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from klbench.study import Summary

LINE_SECONDS = 30.0
"""The least time between two lines of progress."""
KEPT_SECONDS = 1.0
"""The time, in seconds, within which finished work counts as kept from earlier, and says nothing
of the time left.
"""


@contextlib.contextmanager
def progress_bar(log: Callable[[str], None]) -> Iterator[Callable[[int, int, str], None]]:
    """A function ``(done, total, what)`` that moves a bar on a terminal.

    Elsewhere it says a line now and then, and logs it.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(log)
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
        yield lambda done, total, what: progress.update(
            task, completed=done, total=total, description=what[:40]
        )


def _lines(log: Callable[[str], None]) -> Callable[[int, int, str], None]:
    began = said = time.monotonic()
    steps = 0

    def show(done: int, total: int, what: str) -> None:
        nonlocal said, steps
        now = time.monotonic()
        steps += now - began > KEPT_SECONDS
        if now - said < LINE_SECONDS:
            return
        said = now
        left = timedelta(seconds=round((now - began) / steps * (total - done)))
        line = f"{done:,} of {total:,} done, about {left} left: {' '.join(what.split())}"
        with contextlib.suppress(OSError):  # nobody has to read it
            print("klbench:", line, file=sys.stderr, flush=True)
        log(line)

    return show


def print_summary(summaries: Sequence[Summary]) -> None:
    """Small tables, one below the other."""
    console = Console(width=None if Console().is_terminal else 110)
    with (
        console.capture() as captured
    ):  # where the reader has gone, rich itself would end the program, with exit code 1
        for summary in summaries:
            out = Table(title=Text(summary.title, style="italic"), title_justify="left", box=None)
            for name in summary.columns:
                out.add_column(
                    Text(name.removeprefix(">")),
                    justify="right" if name.startswith(">") else "left",
                )
            for row in summary.rows:
                out.add_row(*map(Text, row))
            if summary.rows:
                console.print(out)
            for note in summary.notes:
                console.print(f" {note}", markup=False, highlight=False)
            console.print()
    print(captured.get(), end="")
