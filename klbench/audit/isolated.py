"""An audit in a process of its own: what it prints stays there, and a call that hangs is ended."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from klbench.audit.api import audit as audited
from klbench.audit.findings import IMPORTED
from klbench.audit.target import load
from klbench.types import ConfigError, RunError

LIMIT = 30.0
"""Seconds that a call may take."""
IMPORT_LIMIT = 600.0
"""Seconds that importing the target may take."""
TICK = 0.05
Loader = Callable[[str], tuple[Callable[..., Any], str]]
"""A target to a function, and how it was had, in words."""


@dataclass(frozen=True)
class Found:
    """An audit as plain data.

    Parameters
    ----------
    plain
        As ``schema.json`` describes it.
    lines
        For a terminal.
    curve, right
        As in :class:`klbench.audit.findings.Audit`.
    taken
        How the function was had, in words.
    """

    plain: Mapping[str, Any]
    lines: Sequence[str]
    curve: Sequence[Sequence[float]]
    right: str
    taken: str


def named(target: str) -> tuple[Callable[..., Any], str]:
    """Return what a target names, which is imported."""
    return load(target), IMPORTED


def audit(
    target: str, options: Mapping[str, Any], limit: float = LIMIT, loader: Loader = named
) -> Found:
    """Audit what a target names for a loader.

    Raises
    ------
    ConfigError
        The target cannot be audited, hangs, or ends its process.
    RunError
        The audit itself failed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    clock = context.Value("d", time.time())
    imported = context.Value("b", 0)
    process = context.Process(
        target=_work, args=(sender, clock, imported, target, dict(options), loader), daemon=True
    )
    process.start()
    sender.close()
    try:
        while not receiver.poll(TICK):
            since, most = clock.value, limit if imported.value else IMPORT_LIMIT
            if since and time.time() - since > most:
                raise ConfigError(
                    f"{target}: {'a call' if imported.value else 'importing it'} took more than {most:g} seconds"
                )
            if not process.is_alive() and not receiver.poll(TICK):
                raise ConfigError(f"{target}: it ended its process, with code {process.exitcode}")
        try:
            kind, found = receiver.recv()
        except EOFError:
            process.join(1.0)
            raise ConfigError(
                f"{target}: it ended its process, with code {process.exitcode}"
            ) from None
    finally:
        process.kill()
        process.join()
    if kind == "done":
        assert isinstance(found, Found)
        return found
    raise (ConfigError if kind == "refused" else RunError)(found)


def _work(
    sender: Connection,
    clock: Any,
    imported: Any,
    target: str,
    options: dict[str, Any],
    loader: Loader,
) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)

    def started(now: float) -> None:
        clock.value = now

    try:
        clock.value = time.time()
        function, taken = loader(target)
        started(0.0)
        imported.value = 1
        found = audited(function, name=target, started=started, **options)
        plain = Found(found.plain(), found.lines(), found.curve, found.right, taken)
        sender.send(("done", plain))
    except ConfigError as error:
        sender.send(("refused", str(error)))
    except BaseException as error:  # noqa: BLE001  # told on the other side
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(last.filename)}:{last.lineno}"  # noqa: PTH119
        sender.send(("failed", f"{where}: {type(error).__name__}: {error}"))
    finally:
        with contextlib.suppress(OSError):
            sender.close()
