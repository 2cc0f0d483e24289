"""The processes that share one run, as ``accelerate launch -m klbench`` or ``torchrun -m klbench``
starts them.

All take the same steps. One is the main one: it alone writes, prints and renders. What they tell
each other goes through main memory (gloo), wherever they compute.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from klbench.errors import ConfigError, Notice, RunError

T = TypeVar("T")
TO_MEET = timedelta(minutes=10)
PATIENCE = timedelta(days=7)
"""A process that ends is noticed at once; one that is slow is waited for."""
own = False
"""True in a process that is klbench's own, as the command line's is: nobody else's threads are in
it, whose locks a copy of it would find taken for good.
"""
PIPE_CLOSED = 128 + 13
"""The exit code of a program that SIGPIPE ends, as shells have it."""


@dataclass(frozen=True)
class _Attempt:
    """The outcome of a piece of work in one process: its error, if any, and its notices."""

    failed: type[ConfigError] | type[RunError] | None = None
    message: str = ""
    trace: str = ""
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """The processes of this run, numbered from 0, the main one. By default there is one process.

    Parameters
    ----------
    channel
        What torch talks through.
    """

    rank: int = 0
    size: int = 1
    channel: Any = None

    @property
    def main(self) -> bool:
        """Return whether this process is the one that writes and prints."""
        return self.rank == 0

    def agreed(self, work: Callable[[], T]) -> T:
        """``work()``, in every process, and its result here.

        An error in one is an error in all, of the same kind.

        Raises
        ------
        ConfigError, RunError
            That of the first process that failed; there it is the error itself.
        """
        if self.size == 1:
            return work()
        result: Any = None
        mine, own = _Attempt(), None
        with (
            contextlib.nullcontext([]) if self.main else warnings.catch_warnings(record=True)
        ) as said:
            try:
                result = work()
            except Exception as error:  # noqa: BLE001  # it is raised again, once everybody knows
                own, mine = error, _failure(error)
        attempts: list[Any] = [None] * self.size
        mine = replace(mine, said=tuple(str(each.message) for each in said or ()))
        self._exchange(lambda talk: talk.all_gather_object(attempts, mine, group=self.channel))
        for rank, each in enumerate(attempts):
            self._repeat(rank, each)
        failed = [rank for rank, each in enumerate(attempts) if each.failed is not None]
        if not failed:
            return result
        if own is not None and failed[0] == self.rank:
            raise own
        first = attempts[failed[0]]
        cause = RuntimeError(first.trace) if first.trace else None
        raise first.failed(f"process {failed[0]} of {self.size}: {first.message}") from cause

    def _repeat(self, rank: int, attempt: _Attempt) -> None:
        """The main process says what another one was warned of."""
        for text in attempt.said if self.main else ():
            warnings.warn(f"process {rank} of {self.size}: {text}", Notice, stacklevel=3)

    def from_main(self, value: T) -> T:
        """Return the main process's ``value``, in every process."""
        if self.size == 1:
            return value
        box = [value]
        self._exchange(lambda talk: talk.broadcast_object_list(box, src=0, group=self.channel))
        return box[0]

    def map(
        self, function: Callable[..., T], tasks: Iterable[tuple[Any, ...]]
    ) -> Iterator[T | None]:
        """``function(*task)`` for each task, shared out.

        The main process gets the results in order, the others None for each.

        Tasks must be the same in every process.
        """
        remaining = iter(tasks)
        while wave := list(islice(remaining, self.size)):
            task = wave[self.rank] if self.rank < len(wave) else None
            result = self.agreed(partial(function, *task) if task is not None else _nothing)
            found: list[Any] = [result] * self.size
            if self.size > 1:
                self._exchange(partial(self._gather, result, found))
            yield from found[: len(wave)] if self.main else [None] * len(wave)

    def _gather(self, result: Any, found: list[Any], talk: Any) -> None:
        talk.gather_object(result, found if self.main else None, dst=0, group=self.channel)

    def _exchange(self, talk: Callable[[Any], Any]) -> None:
        try:
            talk(_distributed())
        except RuntimeError as error:
            raise RunError(
                f"one of the {self.size} processes of this run ended before its work was done"
            ) from error


def exit_code(program: Callable[[], int], name: str) -> int:
    """The exit code of a command-line program, also where what it prints cannot be written."""
    try:
        code = program()
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, head or a pager, has seen enough
        code = PIPE_CLOSED
    except OSError as error:
        with contextlib.suppress(OSError):
            print(
                f"{name}: {error.filename or 'the output'}: {error.strerror or error}",
                file=sys.stderr,
            )
        code = 1
    else:
        return code
    os.dup2(
        os.open(os.devnull, os.O_WRONLY), 1
    )  # what is left in the buffer would fail again as the interpreter ends
    return code


def hush_helpers() -> None:
    """Silence this process, and all that it calls, from here on, unless it is the main one of
    several or alone.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0":
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)


def _nothing() -> None:
    return None


def _failure(error: Exception) -> _Attempt:
    if isinstance(error, ConfigError | RunError):
        return _Attempt(type(error), str(error))
    return _Attempt(
        RunError, f"{type(error).__name__}: {' '.join(str(error).split())}", traceback.format_exc()
    )


def join() -> Group:
    """The group that the environment names (``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR``,
    ``MASTER_PORT``); alone without one.

    Raises
    ------
    ConfigError
        It names one in part, or the others cannot be reached.
    """
    size, rank = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "0")
    if size == "1":
        return Group()
    if not (size.isdecimal() and rank.isdecimal() and int(rank) < int(size)):
        raise ConfigError(
            f"WORLD_SIZE={size} and RANK={rank}: must be a number of processes and one of 0 to that"
            " less 1"
        )
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE={size} without {missing[0]}: start several processes with accelerate"
            " launch or torchrun, or unset it"
        )
    try:
        _distributed().init_process_group("gloo", timeout=TO_MEET)
        channel = _distributed().new_group(backend="gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"WORLD_SIZE={size}: the other processes cannot be reached"
            f" ({str(error).splitlines()[0]:.200})"
        ) from None
    return Group(int(rank), int(size), channel)


def _distributed() -> Any:
    """Return ``torch.distributed``, which only runs of several processes need."""
    import torch.distributed

    return torch.distributed


def leave() -> None:
    """End what connects the processes, if anything does.

    Torch would otherwise abort when Python ends.
    """
    if "torch.distributed" in sys.modules:
        distributed = _distributed()
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
