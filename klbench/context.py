"""The context that a study is given, and the results that its shards give back."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from pydantic import Field

from klbench.processes import Group
from klbench.runs import RunFolder
from klbench.types import Options
from klbench.workers import copied, deaf_to, on_processes

CHECKPOINT_SECONDS = 10.0
"""Results are kept no more often than this while shards are merged."""
START_SECONDS, COPY_SECONDS = 1.0, 0.3
"""The CPU seconds that a worker takes to start, most of them imports, and a copy of this process.

Each is to have work for as long at least.
"""


class Cluster(Options):
    """The cluster that does the work.

    ``dask`` or ``ray``, and the scheduler's address (empty: one on this machine).
    """

    kind: str = Field(pattern="^(dask|ray)$")
    address: str = ""


def _no_progress(done: int, total: int, what: str) -> None:
    pass


@dataclass
class Context:
    """The resources of a study.

    The seed, the workers, a place for intermediate results, a progress bar.

    Where several processes share the run, ``group`` says which of them this is; only the main one
    has a folder.
    """

    seed: int
    workers: int = 1
    device: str = "cpu"
    cluster: Cluster | None = None
    folder: RunFolder | None = None
    progress: Callable[[int, int, str], None] = _no_progress
    group: Group = field(default_factory=Group)
    interrupted: bool = field(default=False, init=False)
    _joined: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, init=False)
    _parallel: Any = field(default=None, init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the cluster, if the work went to one."""
        self._parallel = None
        self._joined.close()

    def map(
        self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], *, short: bool = False
    ) -> Generator[Any, None, None]:
        """``function(*task)`` for each task, in order, on the workers.

        The order of results never depends on who made them.

        Workers are started for two tasks or more, one a task at most. Where tasks are ``short`` (a
        few seconds at most), they are done here as long as what is left seems to be less work than
        starting workers.

        Where several processes share the run they are the workers, and those that are not the main
        one get None for each.
        """
        if self.group.size > 1:
            yield from self.group.map(function, tasks)
        elif self.cluster is not None:
            yield from self._map_cluster(function, tasks)
        else:
            remaining, workers = iter(tasks), self.workers
            if short and workers > 1:
                left = deque(remaining)
                workers = yield from self._try_here(function, left)
                remaining = iter(left)
            first = list(islice(remaining, workers))
            if len(first) < 2:
                yield from (function(*task) for task in chain(first, remaining))
            else:
                yield from on_processes(function, chain(first, remaining), len(first))

    def _try_here(
        self, function: Callable[..., Any], left: deque[tuple[Any, ...]]
    ) -> Generator[Any, None, int]:
        """Do tasks until two workers or more would have work for as long as they need to start.

        Returns for how many there is.

        By the mean time of the tasks so far without the first, which may have imports to do.
        """
        start = min(START_SECONDS, COPY_SECONDS) if copied() else START_SECONDS
        if start == 0.0:
            return self.workers
        seconds: list[float] = []
        while left:
            began = time.process_time()
            result = function(*left.popleft())
            seconds.append(time.process_time() - began)
            yield result
            worth = sum(seconds[1:]) / max(len(seconds) - 1, 1) * len(left) / start
            if worth >= 2.0:
                return min(self.workers, int(worth))
        return 1

    def map_kept(
        self,
        function: Callable[..., Any],
        tasks: Mapping[str, tuple[Any, ...]],
        *,
        short: bool = False,
    ) -> Iterator[tuple[str, Any]]:
        """Names with ``function(*task)``, in order, each kept in the run folder.

        A run that is continued does only the others.

        Results are what JSON holds: numbers, texts, lists, and dicts by text. ``short`` is that of
        :meth:`map`.
        """
        folder = self.folder
        kept = (
            {}
            if folder is None
            else {name: rows for name in tasks if (rows := folder.load_rows(name)) is not None}
        )
        missing = [task for name, task in tasks.items() if name not in kept]
        with contextlib.closing(self.map(function, missing, short=short)) as fresh:
            for name in tasks:
                if name not in kept:
                    result = next(fresh)
                    if folder is not None:
                        folder.save_rows(name, result)
                    yield name, result
                else:
                    yield name, kept.pop(name)

    def collect(
        self,
        function: Callable[..., Any],
        tasks: Sequence[tuple[str, tuple[Any, ...]]],
        *,
        short: bool = False,
    ) -> list[Any]:
        """The results of :meth:`map_kept`.

        Each task comes with what the progress bar says of it once it is done.

        On Ctrl-C ``interrupted`` is set, and those that were finished come back.
        """
        results: list[Any] = []
        numbered = {f"task-{k}": task for k, (_, task) in enumerate(tasks)}
        try:
            for (what, _), (_, result) in zip(
                tasks, self.map_kept(function, numbered, short=short), strict=True
            ):
                results.append(result)
                self.progress(len(results), len(tasks), what)
        except KeyboardInterrupt:
            self.interrupted = True
        return results

    def _map_cluster(
        self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]
    ) -> Iterator[Any]:
        from joblib import Parallel, delayed, parallel_config

        assert self.cluster is not None
        if self._parallel is None:  # once a run: a cluster takes seconds to start
            with deaf_to(signal.SIGINT):  # SIGTERM ends the cluster's own processes
                self._joined.enter_context(_connect(self.cluster, self.workers))
            with parallel_config(backend=self.cluster.kind):
                self._parallel = self._joined.enter_context(Parallel())
        remaining = iter(tasks)
        # In waves: not every backend can hand its results out one by one.
        while wave := list(islice(remaining, 32 * self.workers)):
            yield from self._parallel(delayed(function)(*task) for task in wave)


class Mergeable(Protocol):
    """The result of a shard, or of several shards, merged in their order."""

    def merge(self, later: Self, /) -> Self:
        """Return both together."""

    def flat(self) -> dict[str, np.ndarray]:
        """Return everything as arrays by name."""

    @classmethod
    def restored(cls, stored: Mapping[str, np.ndarray], /) -> Self:
        """Return what :meth:`flat` was made from."""


F = TypeVar("F", bound=Mergeable)


class Checkpoint(Generic[F]):
    """The merged results of one task's shards, kept under a name.

    A run continues from it to the same bits.

    Where several processes share the run, only the main one has contents; all have its count.
    """

    def __init__(self, context: Context, name: str, kind: type[F]) -> None:
        self._folder, self._name, self._saved = context.folder, name, time.monotonic()
        part = None if self._folder is None else self._folder.load_part(name)
        # Together, so that an interrupt at any point leaves either both or neither of a shard's
        # count and contents.
        self._merged: tuple[int, F | None] = (
            (0, None) if part is None else (int(part["shards"]), kind.restored(part))
        )
        self._merged = context.group.from_main(self.shards), self.found

    @property
    def shards(self) -> int:
        """Shards merged so far."""
        return self._merged[0]

    @property
    def found(self) -> F | None:
        """The merged result of the shards; None if there is none."""
        return self._merged[1]

    def add(self, shard: F | None, *, last: bool) -> None:
        """Merge the next shard, None for one without contents.

        Keep what there is, but not more often than is worth it.
        """
        merged = (
            self.found
            if shard is None
            else shard
            if self.found is None
            else self.found.merge(shard)
        )
        self._merged = self.shards + 1, merged
        if last or time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            self.save()

    def save(self) -> None:
        """Save the merged results."""
        shards, found = self._merged
        if self._folder is not None and found is not None:
            self._folder.save_part(self._name, {"shards": np.array(shards)} | found.flat())
            self._saved = time.monotonic()


def _connect(cluster: Cluster, workers: int) -> Any:
    if cluster.kind == "dask":
        from dask.distributed import Client

        if cluster.address:
            return Client(cluster.address)
        return Client(n_workers=workers, threads_per_worker=1, dashboard_address=":0")
    import ray
    from ray.util.joblib import register_ray

    @contextlib.contextmanager
    def session() -> Iterator[None]:
        ray.init(address=cluster.address or None, num_cpus=None if cluster.address else workers)
        register_ray()
        try:
            yield
        finally:
            ray.shutdown()

    return session()
