"""Run folders: written atomically, never overwritten, readable while they grow."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from klbench import inputs
from klbench.types import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def now() -> str:
    """The time, UTC, to the second, ISO 8601."""
    return dt.datetime.now(dt.UTC).replace(microsecond=0).isoformat()


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path to write to, moved onto ``path`` when the block ends well: a killed run leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class RunFolder:
    """``config.yaml``, ``run.json``, ``tables/``, ``figures/``, ``index.html``, ``log.txt`` and, while it runs, ``parts/``."""

    path: Path

    @classmethod
    def check_new(cls, path: Path) -> None:
        """Refuse a folder that exists or cannot be made, before anything is written.

        Raises
        ------
        ConfigError
            The folder holds something already, is no folder, or its parent cannot be written to.
        """
        if (found := inputs.kind(path)).startswith("no such file, "):
            raise ConfigError(f"out={path}: cannot be made, {found.partition(', ')[2]}; name a folder that can")
        with inputs.refused(f"out={path}: cannot be looked into, name another folder"):
            taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
            parent = next(each for each in (path, *path.absolute().parents) if each.exists())
        if taken:
            raise ConfigError(
                f"out={path}: exists already; name a new folder, or continue an unfinished run with resume={path}"
            )
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise ConfigError(f"out={path}: {parent} cannot be written to; name a folder that can")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder.

        Raises
        ------
        ConfigError
            There is none.
        """
        if inputs.kind(path / "run.json") != inputs.FILE:
            found = "none there" if inputs.kind(path) == inputs.FOLDER else "no such folder"
            raise ConfigError(f"{path}: expected a run folder with a run.json, found {found}")
        folder = cls(path)
        try:
            readable = isinstance(folder.info, dict)
        except ValueError:
            readable = False
        if not readable:
            raise ConfigError(f"{path}: its run.json is not one that klbench wrote")
        return folder

    def create(self) -> None:
        """Make the folder.

        Raises
        ------
        ConfigError
            It cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"out={self.path}: cannot be made, {error.strerror}; name a folder that can") from None

    @property
    def info(self) -> dict[str, Any]:
        """What ``run.json`` says."""
        result: dict[str, Any] = inputs.read_json(self.path / "run.json")
        return result

    def update(self, *dropped: str, **values: Any) -> None:
        """Drop and change entries of ``run.json``."""
        info = self.info if (self.path / "run.json").exists() else {}
        info = {key: value for key, value in info.items() if key not in dropped}
        write_text(self.path / "run.json", json.dumps(info | values, indent=2, ensure_ascii=False) + "\n")

    def log(self, line: str) -> None:
        """Append a line with the time to ``log.txt``."""
        with (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{now()} {line}\n")

    def check_free(self) -> None:
        """Refuse a run that another live process on this machine is writing.

        Raises
        ------
        ConfigError
            It is being written.
        """
        info = self.info
        if info.get("status") == "running" and info.get("host") == socket.gethostname() and info.get("pid") != os.getpid():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(info["pid"]), 0)
                raise ConfigError(
                    f"resume={self.path}: process {info['pid']} is still writing it; wait for it or stop it first"
                )

    def write_tables(self, tables: Mapping[str, pd.DataFrame]) -> None:
        """Write each table as Parquet with a CSV beside it."""
        for name, table in tables.items():
            with atomic(self.path / "tables" / f"{name}.parquet") as partial:
                table.to_parquet(partial, index=False)
            with atomic(self.path / "tables" / f"{name}.csv") as partial:
                table.to_csv(partial, index=False)

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables, by name."""
        import pandas as pd

        return {path.stem: pd.read_parquet(path) for path in sorted((self.path / "tables").glob("*.parquet"))}

    def save_part(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep intermediate results, so that the run can be continued."""
        import numpy as np

        with atomic(self.path / "parts" / f"{name}.npz") as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **dict[str, Any](arrays))

    def load_part(self, name: str) -> dict[str, np.ndarray] | None:
        """Intermediate results of that name, if they were saved."""
        import numpy as np

        path = self.path / "parts" / f"{name}.npz"
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as file:
            return dict(file)

    def save_rows(self, name: str, result: Any) -> None:
        """Keep what JSON can hold, to the last bit, infinities and NaN included."""
        write_text(self.path / "parts" / f"{name}.json", json.dumps(result))

    def load_rows(self, name: str) -> Any:
        """What was kept under that name; None if nothing was."""
        path = self.path / "parts" / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def discard(self) -> None:
        """Remove a run that began and has nothing to show; what else is in its folder stays, and the folder with it."""
        self.drop_parts()
        for name in ("config.yaml", "run.json", "log.txt"):
            with contextlib.suppress(OSError):
                (self.path / name).unlink()
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def drop_parts(self) -> None:
        """Remove what only an unfinished run needs."""
        shutil.rmtree(self.path / "parts", ignore_errors=True)
