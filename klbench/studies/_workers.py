"""Work on processes of this machine: joblib's own pool, in order, as much at once as keeps it busy, ended without noise."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import Future

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
IDLE_SECONDS = 300
"""How long workers wait for more before they end."""
GLANCE_SECONDS = 0.1
"""How long Ctrl-C may wait to be seen."""


def on_processes(
    function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], workers: int
) -> Generator[Any, None, None]:  # fmt: skip
    """``function(*task)`` for each task, in order; two tasks a worker are under way at a time.

    Not joblib's ``Parallel``: it hands tasks out from a thread that, when all is ended early, may wait for the lock under which
    it is itself waited for.

    Raises
    ------
    KeyboardInterrupt
        Between two results, once it is seen.
    """
    from joblib.externals.loky import get_reusable_executor

    # Workers that have grown, as by importing torch, are replaced by new ones: nothing that a user could act on.
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given to the executor")
    # Workers that others have left idle have the environment and the folder of their start: where these differ, new ones start.
    own = {name: value for name, value in os.environ.items() if name.startswith("KLBENCH_")}
    environment = ONE_THREAD | own | {"PWD": str(Path.cwd())}
    remaining = iter(tasks)
    ordered: deque[Future[Any]] = deque()
    running: set[Future[Any]] = set()
    with interrupts_kept() as interrupted:
        pool = None
        try:
            while True:
                with deaf_to_interrupts():
                    pool = pool or get_reusable_executor(max_workers=workers, timeout=IDLE_SECONDS, env=environment)
                    while len(running) < 2 * workers and (task := next(remaining, None)) is not None:
                        ordered.append(pool.submit(function, *task))
                        running.add(ordered[-1])
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


def _end(pool: Any, running: set[Future[Any]]) -> None:
    """End a pool with all that is under way.

    Its own ``shutdown(kill_workers=True)`` fails where a task has just been submitted; to lose its workers, it is prepared.
    """
    from multiprocessing import active_children

    from joblib.externals.loky.backend.process import LokyProcess

    while running:
        for child in active_children():
            if isinstance(child, LokyProcess):
                child.terminate()
        _, running = wait(running, GLANCE_SECONDS)
    pool.shutdown()


@contextlib.contextmanager
def interrupts_kept() -> Iterator[Callable[[], bool]]:
    """Ctrl-C is kept, and only a second one interrupts at once. Yields whether there has been one.

    Raised in this thread wherever it happens to be, KeyboardInterrupt may leave a lock of the pool's taken for good: the pool
    then never ends.
    """
    came = False
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield lambda: came
        return

    def keep(number: int, frame: object) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, keep)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Ctrl-C waits until the block ends, here; processes that start in the block never get it. (POSIX; elsewhere, nothing.)"""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # it clears the mask when it starts, and would do so inside the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
