"""Work on processes of this machine.

In order, as much at once as keeps them busy, ended without noise. They are copies of this process,
which start at once and have its imports, where it is klbench's own; else joblib's pool of new ones.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import active_children, get_context, resource_tracker
from pathlib import Path
from typing import Any

from threadpoolctl import ThreadpoolController

from klbench import processes

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)
IDLE_SECONDS = 300
"""The time that workers wait for more before they end."""
GLANCE_SECONDS = 0.1
"""The time that Ctrl-C may wait to be seen."""
KILLED_SECONDS = 3.0
"""The time that a pool may take to see that its workers have ended."""
PARENT_SECONDS = 1.0
"""The time that a worker may outlive the process that started it."""
STOPS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Ctrl-C, what ``kill``, service managers and schedulers of jobs send, and the end of a
terminal.
"""


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def copied() -> bool:
    """Return whether workers would be copies of this process.

    Not where an accelerator is in use, which copies cannot share.
    """
    torch = sys.modules.get("torch")
    return (
        processes.own
        and sys.platform == "linux"
        and (torch is None or not torch.accelerator.is_available())
    )


def on_processes(
    function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], workers: int
) -> Generator[Any, None, None]:
    """``function(*task)`` for each task, in order; two tasks a worker are under way at a time.

    Not joblib's ``Parallel``: it hands tasks out from a thread that, when all is ended early, may
    wait for the lock under which it is itself waited for.

    Raises
    ------
    KeyboardInterrupt
        Between two results, once it is seen.
    """
    start = _copies if copied() else _others
    ordered: deque[Future[Any]] = deque()
    running: set[Future[Any]] = set()
    with interrupts_kept() as interrupted:
        pool = None
        try:
            while True:
                with deaf_to(*STOPS):
                    if pool is None:
                        pool, submitted = start(function, tasks, workers)
                    while len(running) < 2 * workers and (future := next(submitted, None)):
                        ordered.append(future)
                        running.add(future)
                if not ordered:
                    break
                _, running = wait(running, GLANCE_SECONDS, FIRST_COMPLETED)
                if interrupted():
                    raise KeyboardInterrupt
                while ordered and ordered[0].done():
                    yield ordered.popleft().result()
        finally:
            if running:  # cut short
                _end(pool, running)
            elif isinstance(pool, ProcessPoolExecutor):  # copies know only what was so far
                pool.shutdown()


def _copies(
    function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], workers: int
) -> tuple[ProcessPoolExecutor, Iterator[Future[Any]]]:
    """Return a pool of copies of this process, which have the tasks and are told their numbers,
    and what hands out the next one.
    """
    given = list(tasks)
    pool = ProcessPoolExecutor(
        workers,
        get_context("fork"),
        initializer=_be_a_copy,
        initargs=(os.getpid(), function, given),
    )
    return pool, (pool.submit(_do, number) for number in range(len(given)))


_given: tuple[Callable[..., Any], Sequence[tuple[Any, ...]]]
"""In a copy: the function, and the arguments of each task."""


def _do(number: int) -> Any:
    function, tasks = _given
    return function(*tasks[number])


def _be_a_copy(parent: int, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> None:
    """Compute in one thread, and write by streams whose locks nobody holds."""
    global _given
    _given = function, tasks
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = open(number, "w", 1, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
    os.environ |= ONE_THREAD | {"TOKENIZERS_PARALLELISM": "false"}
    ThreadpoolController().limit(limits=1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    end_with_parent(parent)


def _others(
    function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], workers: int
) -> tuple[Any, Iterator[Future[Any]]]:
    """Return joblib's pool, whose workers stay for what comes next, and what hands out the next
    task.
    """
    from joblib.externals.loky import get_reusable_executor

    # Workers that have grown, as by importing torch, are replaced by new ones: nothing that a user
    # could act on.
    warnings.filterwarnings(
        "ignore", message="A worker stopped while some jobs were given to the executor"
    )
    # Workers that others have left idle have the environment and the folder of their start: where
    # these differ, new ones start.
    own = {name: value for name, value in os.environ.items() if name.startswith("KLBENCH_")}
    pool = get_reusable_executor(
        max_workers=workers,
        timeout=IDLE_SECONDS,
        env=ONE_THREAD | own | {"PWD": str(Path.cwd())},
        initializer=end_with_parent,
        initargs=(os.getpid(),),
    )
    return pool, (pool.submit(function, *task) for task in tasks)


def _end(pool: Any, running: set[Future[Any]]) -> None:
    """End a pool with all that is under way.

    Its own ``shutdown(kill_workers=True)`` fails where a task has just been submitted; to lose its
    workers, it is prepared.
    """
    its = getattr(pool, "_mp_context", None) or pool._context
    kill = getattr(signal, "SIGKILL", signal.SIGTERM)  # workers are deaf to what can be blocked
    killed = time.monotonic()
    while running:
        for child in active_children():
            if isinstance(child, its.Process) and child.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, kill)
        if time.monotonic() - killed > KILLED_SECONDS:
            # A worker was killed half-way through a message, and the pool waits for the rest: its
            # end of the pipe is the last.
            with contextlib.suppress(AttributeError, OSError):
                pool._result_queue._writer.close()
        _, running = wait(running, GLANCE_SECONDS)
    pool.shutdown()


def end_with_parent(parent: int) -> None:
    """End this worker soon after its parent process has ended, even by a signal that cannot be
    caught.

    Not by Linux's parent-death signal, which comes when the thread that started the worker ends.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="klbench-parent", daemon=True).start()


@contextlib.contextmanager
def interrupts_kept() -> Iterator[Callable[[], bool]]:
    """Ctrl-C is kept, and only a second one interrupts at once. Yields whether there has been one.

    So is SIGTERM where it is treated as Ctrl-C. Raised in this thread wherever it happens to be,
    KeyboardInterrupt may leave a lock of the pool's taken for good: the pool then never ends.
    """
    came = False
    kept = [number for number in STOPS if signal.getsignal(number) is signal.default_int_handler]
    if threading.current_thread() is not threading.main_thread():
        kept = []

    def heard(number: int, frame: object) -> None:
        nonlocal came
        came = True
        listen(signal.default_int_handler)

    def listen(handler: Callable[[int, Any], Any]) -> None:
        for number in kept:
            signal.signal(number, handler)

    listen(heard)
    try:
        yield lambda: came
    finally:
        listen(signal.default_int_handler)


@contextlib.contextmanager
def deaf_to(*signals: signal.Signals) -> Iterator[None]:
    """Hold these signals back until the block ends; processes that start in it never get them.

    (POSIX; elsewhere, nothing.)
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # it clears the mask when it starts, and would do so inside the block
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
