"""Files of recorded rollouts: the reader for each, kept by every process with its place in the file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from klbench import inputs
from klbench.rollouts.base import Reader
from klbench.types import ConfigError

SUFFIXES = (".parquet", ".pq", ".jsonl", ".ndjson", ".npz")
"""The suffixes of files that can be read."""


@lru_cache(maxsize=4)
def _opened(path: str, changed: int, size: int) -> Reader:
    from klbench.rollouts.formats import READERS  # and with it Arrow

    return READERS[Path(path).suffix.lower()](Path(path))


def fingerprint(path: str) -> tuple[int, int]:
    """Return the time of the file's last change, in nanoseconds, and its size in bytes."""
    status = Path(path).stat()
    return status.st_mtime_ns, status.st_size


def reader(path: str) -> Reader:
    """The reader of a file; each process keeps it, and with it its place in the file, until the file changes.

    Raises
    ------
    ConfigError
        There is no such file, its name says none of the formats, or it cannot be read.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"expected a name that ends in {', '.join(SUFFIXES)}, since that says how to read it"
        )
    if (found := inputs.kind(path)) != inputs.FILE:
        raise ConfigError("it is a folder, name a file in it" if found == inputs.FOLDER else found)
    try:
        return _opened(path, *fingerprint(path))
    except OSError as error:
        raise ConfigError(f"cannot be read, {error.strerror or error}") from None
