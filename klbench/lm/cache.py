"""The cache of artifacts that are built once.

Folders named by their inputs, complete as written or built again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from klbench.runs import write_text
from klbench.types import ConfigError, Notice

VARIABLE = "KLBENCH_CACHE"
FORGOTTEN_SECONDS = 86_400
"""The age from which a half-built folder counts as left by a process that has ended."""


def root() -> Path:
    """``$KLBENCH_CACHE``, else ``$XDG_CACHE_HOME/klbench``, else ``~/.cache/klbench``."""
    own = os.environ.get(VARIABLE)
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "klbench"


def folder(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return ``root/kind/key``.

    If it does not exist yet, ``build`` fills an empty folder that then takes that name.

    ``key.sha256`` beside it holds the checksums of its files, as ``sha256sum`` writes them. Where
    they no longer agree, the folder is made again, with a notice. Of several processes that want it
    at once, one builds and the others wait. A build that is broken off leaves nothing that would be
    taken for a whole one.

    Raises
    ------
    ConfigError
        The cache cannot be written; said before anything is built.
    """
    target = root() / kind / key
    if _fault(target) is None:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.parent / f".{key}.lock")
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise _unwritable(error) from None
    try:
        fault = _fault(target)
        if fault is not None:
            if target.is_dir():
                warnings.warn(f"{target}: {fault}; it is made again", Notice, stacklevel=2)
            _fill(target, build)
    finally:
        lock.release()
    return target


def _sums(folder: Path) -> dict[str, str]:
    """The checksum of each file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): checksum(path) for path in files}


def checksum(path: Path) -> str:
    """A file's SHA-256.

    A process reads it once, as long as its size and time stay what they were.
    """
    about = path.stat()
    return _checksum(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=256)
def _checksum(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sums_file(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _fault(target: Path) -> str | None:
    """Return why a folder cannot be used.

    It is missing, or its files are not those that were written. None if it can.
    """
    if not target.is_dir():
        return "is not there"
    try:
        lines = _sums_file(target).read_text(encoding="utf-8").splitlines()
        found = _sums(target)
    except FileNotFoundError:
        return "has no checksums"
    except (OSError, ValueError):
        return "cannot be read"
    written = {
        name.removeprefix(f"{target.name}/"): digest
        for digest, _, name in (line.partition("  ") for line in lines)
    }
    wrong = next((name for name, digest in written.items() if found.get(name) != digest), None)
    return None if wrong is None else f"{wrong} is not as it was written"


def _fill(target: Path, build: Callable[[Path], None]) -> None:
    for path in target.parent.glob(f".{target.name}-*"):
        if path.stat().st_mtime < time.time() - FORGOTTEN_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
    try:
        unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise _unwritable(error) from None
    try:
        faulty = target.is_dir()
        build(unfinished)
        sums = "".join(
            f"{digest}  {target.name}/{name}\n" for name, digest in _sums(unfinished).items()
        )
        # The lock is advice: on a file system that has none, another process may have been faster,
        # and its folder serves.
        try:
            if faulty:
                shutil.rmtree(target)
            unfinished.rename(target)
            write_text(_sums_file(target), sums)
        except OSError as error:
            if faulty or not target.is_dir():
                raise _unwritable(error) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _unwritable(error: Exception) -> ConfigError:
    reason = getattr(error, "strerror", None) or str(error)
    return ConfigError(
        f"{root()}: the cache for models cannot be written ({reason}); set {VARIABLE} to a folder"
        " that can"
    )
