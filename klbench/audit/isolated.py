"""An audit in a process of its own: what it prints stays there, and a call that hangs is ended."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from klbench.audit.findings import IMPORTED
from klbench.audit.target import load
from klbench.types import ConfigError, RunError

if TYPE_CHECKING:
    from klbench.audit.field import Place

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


@dataclass(frozen=True)
class Record:
    """An audit that was made, or why it was not.

    Parameters
    ----------
    target
        What names the function.
    found
        None where it could not be audited.
    refusal
        Why not.
    place
        The function of a trainer, where it is one.
    """

    target: str
    found: Found | None
    refusal: str = ""
    place: Place | None = None


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
    (found,) = several([(target, options)], limit, loader)
    if isinstance(found, Found):
        return found
    raise found


def several(
    requests: Sequence[tuple[str, Mapping[str, Any]]], limit: float = LIMIT, loader: Loader = named
) -> Iterator[Found | ConfigError | RunError]:
    """Yield the audits of targets, or why there is none; in one process while none hangs or ends it."""
    done = 0
    while done < len(requests):
        for found in _together(requests[done:], limit, loader):
            yield found
            done += 1


def _together(
    requests: Sequence[tuple[str, Mapping[str, Any]]], limit: float, loader: Loader
) -> Iterator[Found | ConfigError | RunError]:
    """Yield what one process makes of targets, up to the first that hangs or ends it."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    clock = context.Value("d", time.time())
    imported = context.Value("b", 0)
    process = context.Process(
        target=_work, args=(sender, clock, imported, list(requests), loader), daemon=True
    )
    process.start()
    sender.close()

    def answer(target: str) -> Found | ConfigError | RunError:
        while not receiver.poll(TICK):
            since, most = clock.value, limit if imported.value else IMPORT_LIMIT
            if since and time.time() - since > most:
                what = "a call" if imported.value else "importing it"
                raise ConfigError(f"{target}: {what} took more than {most:g} seconds")
            if not process.is_alive() and not receiver.poll(TICK):
                raise EOFError
        kind, found = receiver.recv()
        if kind == "done":
            assert isinstance(found, Found)
            return found
        return (ConfigError if kind == "refused" else RunError)(found)

    try:
        for target, _ in requests:
            try:
                found = answer(target)
            except EOFError:
                process.join(1.0)
                code = process.exitcode
                yield ConfigError(f"{target}: it ended its process, with code {code}")
                return
            except ConfigError as error:
                yield error
                return
            yield found
    finally:
        process.kill()
        process.join()


def _work(
    sender: Connection,
    clock: Any,
    imported: Any,
    requests: Sequence[tuple[str, Mapping[str, Any]]],
    loader: Loader,
) -> None:
    from klbench.audit.api import audit as audited  # here alone, since it loads torch

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)

    def started(now: float) -> None:
        clock.value = now

    def answer(target: str, options: Mapping[str, Any]) -> tuple[str, Found | str]:
        try:
            imported.value = 0
            started(time.time())
            function, taken = loader(target)
            started(0.0)
            imported.value = 1
            found = audited(function, name=target, started=started, **options)
        except ConfigError as error:
            return "refused", str(error)
        except KeyboardInterrupt:
            return "refused", f"{target}: it raised KeyboardInterrupt"
        except BaseException as error:  # noqa: BLE001  # a border: what fails is told on the other side
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{os.path.basename(last.filename)}:{last.lineno}"  # noqa: PTH119
            return "failed", f"{where}: {type(error).__name__}: {error}"
        finally:
            started(0.0)
        return "done", Found(found.plain(), found.lines(), found.curve, found.right, taken)

    for target, options in requests:
        sender.send(answer(target, options))
    with contextlib.suppress(OSError):
        sender.close()
