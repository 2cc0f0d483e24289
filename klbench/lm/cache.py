"""Where what is built once is kept: folders named by their content, whole or not there at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from klbench.types import ConfigError

VARIABLE = "KLBENCH_CACHE"


def root() -> Path:
    """``$KLBENCH_CACHE``, else ``$XDG_CACHE_HOME/klbench``, else ``~/.cache/klbench``."""
    own = os.environ.get(VARIABLE)
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "klbench"


def folder(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """``root/kind/key``; where it is not there yet, ``build`` fills an empty folder that then takes that name.

    Of several processes that want it at once, one builds and the others wait. A build that is broken off leaves nothing that
    would be taken for a whole one.

    Raises
    ------
    ConfigError
        The cache cannot be written; said before anything is built.
    """
    target = root() / kind / key
    if target.is_dir():
        return target
    from filelock import FileLock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.parent / f".{key}.lock")
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise _unwritable(error) from None
    try:
        if not target.is_dir():
            _fill(target, build)
    finally:
        lock.release()
    return target


def _fill(target: Path, build: Callable[[Path], None]) -> None:
    try:
        unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise _unwritable(error) from None
    try:
        build(unfinished)
        # The lock is advice: on a file system that has none, another process may have been faster, and its folder serves.
        try:
            unfinished.rename(target)
        except OSError as error:
            if not target.is_dir():
                raise _unwritable(error) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _unwritable(error: Exception) -> ConfigError:
    reason = getattr(error, "strerror", None) or str(error)
    return ConfigError(
        f"{root()}: the cache for the embedded models cannot be written ({reason}); set {VARIABLE} to a folder that can"
    )
