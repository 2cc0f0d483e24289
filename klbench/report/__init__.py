"""Run folders to pages.

Reads tables and nothing else, and computes no statistic that a table does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["answers", "combine", "history", "render"]


def render(folder: Path, outcome: Mapping[str, Any] | None = None, *, workers: int = 1) -> Path:
    """Write ``figures/*.svg`` and ``index.html`` into a run folder, atomically.

    Parameters
    ----------
    outcome
        What takes the place of entries of ``run.json`` on the page: how a run ends that has yet to
        write it down.
    workers
        Processes to draw with: copies of this one, where it is klbench's own.

    Returns
    -------
    Path
        Of ``index.html``.

    Raises
    ------
    ConfigError
        There is no such run, it has no tables, or one of them cannot be read.
    """
    from klbench.report import sources, writing

    return writing.write_run(sources.read(Path(folder), outcome), workers)


def combine(folders: Sequence[Path], out: Path, *, workers: int = 1) -> Path:
    """Write one page over several runs to ``out``.

    Rows are labelled by what differs between the runs' configurations. ``workers`` are as in
    :func:`render`.

    Raises
    ------
    ConfigError
        A run cannot be read, or ``out`` is a file that klbench did not make.
    """
    from klbench.report import sources, writing

    found = sources.combined([Path(folder) for folder in folders])
    return writing.write_combined(found, Path(out), workers)


def answers(folders: Sequence[Path]) -> dict[str, Any]:
    """Return what a page over these runs says first.

    Returns
    -------
    dict
        ``runs``: their folders. ``answers``: for each study with something to say its name as
        ``study``, its ``question`` and its ``answer``, a sentence.

    Raises
    ------
    ConfigError
        A run cannot be read.
    """
    from klbench.report import sources, writing

    combined = sources.combined([Path(folder) for folder in folders])
    return {"runs": [str(each) for each in folders], "answers": writing.answers(combined)}


def history(files: Sequence[Path], out: Path) -> Path:
    """Write the page of a history of timings, of one file or of several, to ``out``.

    Raises
    ------
    ConfigError
        A file is no history, or ``out`` is a file that klbench did not make.
    """
    from klbench.report import timings

    return timings.write([Path(file) for file in files], Path(out))
