"""Recorded rollouts: what each file holds, kept by every process with its place in the file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from klbench import inputs
from klbench.rollouts.places import Place
from klbench.types import ConfigError


@lru_cache(maxsize=4)
def _opened(path: str, changed: int, size: int) -> Place:
    return Place(path)


def fingerprint(path: str) -> tuple[int, int]:
    """Return the time of the last change, in nanoseconds, and the size in bytes, of a file or
    all files of a folder.
    """
    files = [each for each in Path(path).rglob("*") if each.is_file()] or [Path(path)]
    status = [each.stat() for each in files]
    return max(each.st_mtime_ns for each in status), sum(each.st_size for each in status)


def place(path: str) -> Place:
    """Return a file of rollouts.

    Each process keeps it, and with it its place in the file, until the file changes.

    Raises
    ------
    ConfigError
        There is no such file, its name says none of the formats, or it cannot be read.
    """
    if (found := inputs.kind(path)) not in (inputs.FILE, inputs.FOLDER):
        raise ConfigError(found)
    try:
        return _opened(path, *fingerprint(path))
    except OSError as error:
        raise ConfigError(f"cannot be read, {error.strerror or error}") from None
