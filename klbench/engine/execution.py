"""A run: checked settings into a run folder, by one process or with the help of others."""

from __future__ import annotations

import contextlib
import gc
import os
import shlex
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import yaml

from klbench import report
from klbench.context import Context
from klbench.engine.progress import progress_bar
from klbench.engine.settings import Settings
from klbench.machine import describe
from klbench.processes import Group
from klbench.runs import RunFolder, now, start_of, write_text
from klbench.types import ConfigError, Notice, RunError

if TYPE_CHECKING:
    import pandas as pd

ALONE = Group()


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes
    ----------
    path
        The run folder.
    tables
        Its tables by name, such as ``tables["values"]``.
    status
        ``done`` or ``interrupted``.
    """

    path: Path
    tables: dict[str, pd.DataFrame]
    status: str = "done"


@contextlib.contextmanager
def _noticing(folder: RunFolder) -> Iterator[None]:
    """Show each notice on one line of the terminal and write it to the log, once, however often
    it occurs.
    """
    said: set[str] = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def notice(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, Notice):
                if str(message) in said:
                    return
                said.add(str(message))
                with contextlib.suppress(OSError):  # nobody has to read it
                    print("klbench:", message, file=sys.stderr)
                folder.log(f"note: {message}")
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = notice
        yield


def execute(
    settings: Settings, folder: RunFolder, arguments: Sequence[str], group: Group = ALONE
) -> Run:
    """Run checked settings into a folder.

    Raises
    ------
    ConfigError
        What is wrong showed only at work, in a model or in the middle of a file.
    RunError
        The run failed; its ``log.txt`` has the traceback.
    """
    _begin(settings, folder, arguments, group)
    started = time.monotonic()
    try:
        with (
            progress_bar(folder.log) as progress,
            _noticing(folder),
            Context(
                settings.common.seed,
                settings.workers,
                settings.common.device,
                settings.cluster,
                folder,
                progress,
                group,
            ) as context,
        ):
            gc.freeze()  # while it runs, nothing that is loaded is garbage: no need to look again
            tables = dict(settings.study.run(settings.options, context))
        if context.interrupted and not tables:
            raise KeyboardInterrupt
        studied = time.monotonic()
        folder.write_tables(tables)
        status = "interrupted" if context.interrupted else "done"
        seconds = {"study": round(studied - started, 3)}
        outcome = {"status": status, "finished": now(), "seconds": seconds}
        gc.freeze()
        try:
            alone = group.size == 1 and settings.cluster is None
            report.render(folder.path, outcome, workers=settings.workers if alone else 1)
        # no mistake of the user's any more: the tables stand, and are not to be discarded
        except ConfigError as error:
            raise RunError(str(error)) from error
        seconds["report"] = round(time.monotonic() - studied, 3)
        folder.update(**outcome)  # once the page is there
        folder.log(f"{status}: {seconds}")
    except ConfigError as error:
        _end(folder, "", status="failed", error=str(error))
        raise
    except KeyboardInterrupt:
        _end(folder, "interrupted before anything was finished", status="interrupted")
        return Run(folder.path, {}, "interrupted")
    except Exception as error:
        what = (
            " ".join(str(error).split())
            if isinstance(error, RunError)
            else f"{type(error).__name__}: {error}"
        )
        _end(folder, traceback.format_exc(), status="failed", error=what)
        log = folder.path / "log.txt"
        raise RunError(
            f"the run failed: {' '.join(what.split())}{f'; see {log}' if log.exists() else ''}"
        ) from error
    finally:
        gc.unfreeze()  # for a sweep's next run, or whoever called
    if status == "done":
        folder.drop_parts()
    return Run(folder.path, tables, status)


def _begin(settings: Settings, folder: RunFolder, arguments: Sequence[str], group: Group) -> None:
    """Make the folder, or take it up again, and write down what runs here, and where."""
    folder.create()
    try:
        folder.drop_partials()
        if not (folder.path / "config.yaml").exists():
            config = yaml.safe_dump(settings.config, sort_keys=False, allow_unicode=True)
            write_text(folder.path / "config.yaml", config)
        folder.begin(
            "finished",
            "seconds",
            "error",  # of an earlier part of this run
            status="running",
            experiment=settings.experiment,
            study=settings.study.name,
            command=f"python -m klbench {shlex.join(arguments)}",
            seed=settings.common.seed,
            workers=settings.workers,
            processes=group.size,
            device=settings.common.device,
            started=now(),
            pid=os.getpid(),
            pid_started=start_of(os.getpid()),
            host=socket.gethostname(),
            **describe(),
        )
        folder.log(f"started: {shlex.join(arguments)}")
    except OSError as error:
        what = f"{error.filename or folder.path}: cannot be written, {error.strerror}"
        if (folder.path / "run.json").exists():
            _end(folder, "", status="failed", error=what)
        else:
            folder.discard()
        raise RunError(what) from error


def _end(folder: RunFolder, log: str, **outcome: Any) -> None:
    """Write down how a run came to an early end, as far as it can be.

    Its disk may be full, its folder gone.
    """
    with contextlib.suppress(OSError, RunError):
        folder.update(finished=now(), **outcome)
    with contextlib.suppress(OSError, RunError):
        if log:
            folder.log(log)


def assist(settings: Settings, group: Group) -> None:
    """Take a share of the work and leave all else to the main process."""
    context = Context(settings.common.seed, device=settings.common.device, group=group)
    try:
        settings.study.run(settings.options, context)
    except (ConfigError, RunError):
        raise
    except Exception as error:
        raise RunError(
            f"{type(error).__name__}: {error}"
        ) from error  # the main process has it from here
    if context.interrupted:
        raise KeyboardInterrupt
