"""Run folders: written atomically, never overwritten, readable while they grow."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import json
import os
import shutil
import socket
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from zipfile import BadZipFile

import numpy as np

from klbench import inputs, schema
from klbench.schema import Tables
from klbench.types import ConfigError, Notice, RunError

if TYPE_CHECKING:
    import pandas as pd


T = TypeVar("T")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""The first characters of a cell that spreadsheets take for a formula."""


def now() -> str:
    """The time, UTC, to the second, ISO 8601."""
    return dt.datetime.now(dt.UTC).replace(microsecond=0).isoformat()


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path to write to, moved onto ``path`` when the block ends well.

    A killed run leaves no half file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _for_spreadsheets(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a ``'`` before each text that a spreadsheet would take for a formula, and run.

    A carriage return becomes a line feed: the CSV writer leaves it without quotes, and what follows
    would begin a row.
    """

    def guarded(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return ("'" if value.startswith(FORMULA) else "") + value.replace("\r\n", "\n").replace(
            "\r", "\n"
        )

    texts = table.select_dtypes(exclude=["number", "bool"])
    return table.assign(**{str(name): texts[name].map(guarded) for name in texts})


def start_of(pid: int) -> str | None:
    """Return the start of a process, as Linux counts it.

    None on other systems, and if no such process runs.

    With its number it names one process: numbers alone are given again.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        fields = (
            Path(f"/proc/{pid}/stat")
            .read_text(encoding="utf-8", errors="replace")
            .rpartition(")")[2]
            .split()
        )
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{boot} {fields[19]}"


def _runs(pid: Any, started: Any) -> bool:
    """Return whether a process of that number runs here, and is the one that started then, if
    that is known.
    """
    if started is not None:
        return bool(start_of(pid) == started)
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError, TypeError):
        return False
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _overwrite(path: Path, text: str) -> None:
    """Write a text into the blocks that a small file has already.

    The way that is left on a full disk.

    Raises
    ------
    OSError
        They do not suffice; the file is as it was.
    """
    before, after = path.read_bytes(), text.encode()
    file = os.open(path, os.O_WRONLY)
    try:
        written = os.pwrite(file, after, 0)
        if written < len(after):
            after = before
            os.pwrite(file, before, 0)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.truncate(file, len(after))
        os.close(file)


KINDS: dict[str, type] = {
    **dict.fromkeys(
        ("status", "experiment", "study", "command", "device", "started", "finished", "error"), str
    ),
    **dict.fromkeys(("seed", "workers", "processes"), int),
    **dict.fromkeys(("seconds", "versions", "machine", "git"), dict),
}
"""The types of the entries of ``run.json`` that are read again."""


@dataclass(frozen=True)
class RunFolder:
    """``config.yaml``, ``run.json``, ``tables/``, ``figures/``, ``index.html``, ``log.txt`` and,
    while it runs, ``parts/``.
    """

    path: Path
    new: bool = False
    """True if the folder must not exist yet when it is made."""

    @classmethod
    def check_new(cls, path: Path) -> None:
        """Refuse a folder that exists or cannot be made, before anything is written.

        Raises
        ------
        ConfigError
            The folder holds something already, is no folder, or its parent cannot be written to.
        """
        if (found := inputs.kind(path)).startswith("no such file, "):
            raise ConfigError(
                f"out={path}: cannot be made, {found.partition(', ')[2]}; name a folder that can"
            )
        with inputs.refused(f"out={path}: cannot be looked into, name another folder"):
            taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
            parent = next(each for each in (path, *path.absolute().parents) if each.exists())
        if taken:
            raise ConfigError(
                f"out={path}: exists already; name a new folder, or continue an unfinished run with"
                f" resume={path}"
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
        for key, kind in KINDS.items():
            value = folder.info.get(key)
            if value is not None and not isinstance(value, kind):
                raise ConfigError(
                    f"{path}: its run.json says {key}={value!r:.40}, where klbench writes a"
                    f" {kind.__name__}"
                )
        return folder

    def check_inside(self) -> None:
        """Refuse a folder with an entry that leads out of it.

        What is written there would change something else.

        Raises
        ------
        ConfigError
            It has one.
        """
        root = os.path.realpath(self.path)
        for entry in self.path.iterdir():
            target = os.path.realpath(entry)
            if entry.is_symlink() and os.path.commonpath((root, target)) != root:
                raise ConfigError(
                    f"{entry}: leads out of the run folder, to {target}; klbench writes to nothing"
                    " outside it"
                )

    def create(self) -> None:
        """Make the folder.

        Raises
        ------
        ConfigError
            It cannot be made, or another run has made it since it was found to be new.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self.new:
                (self.path / "log.txt").open("x").close()
        except FileExistsError:
            raise ConfigError(
                f"out={self.path}: another run has just begun there; name a new folder"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"out={self.path}: cannot be made, {error.strerror}; name a folder that can"
            ) from None

    @property
    def info(self) -> dict[str, Any]:
        """Return the contents of ``run.json``."""
        result: dict[str, Any] = inputs.read_json(self.path / "run.json")
        return result

    def begin(self, *dropped: str, **values: Any) -> None:
        """Write ``run.json``; of one that is there already, drop and change entries."""
        info = self.info if (self.path / "run.json").exists() else {}
        info = {key: value for key, value in info.items() if key not in dropped}
        write_text(
            self.path / "run.json", json.dumps(info | values, indent=2, ensure_ascii=False) + "\n"
        )

    def update(self, **values: Any) -> None:
        """Change entries of ``run.json``, on a full disk too where its blocks suffice.

        Raises
        ------
        RunError
            The folder was removed meanwhile.
        """
        if inputs.kind(self.path / "run.json") != inputs.FILE:
            raise self._removed()
        text = json.dumps(self.info | values, indent=2, ensure_ascii=False) + "\n"
        try:
            write_text(self.path / "run.json", text)
        except OSError:
            _overwrite(self.path / "run.json", text)

    def log(self, line: str) -> None:
        """Append a line with the time to ``log.txt``."""
        with self._inside("log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{now()} {line}\n")

    def _inside(self, *names: str) -> Path:
        """A path to write to, unless somebody has removed the folder.

        It is not to come back in part.
        """
        if not self.path.is_dir():
            raise self._removed()
        return self.path.joinpath(*names)

    def _removed(self) -> RunError:
        return RunError(f"{self.path} was removed while the run was writing it")

    def check_free(self) -> None:
        """Refuse a run that another live process on this machine is writing.

        Raises
        ------
        ConfigError
            It is being written, or an entry leads out of it.
        """
        self.check_inside()
        info = self.info
        pid = info.get("pid")
        here = (
            info.get("status") == "running"
            and info.get("host") == socket.gethostname()
            and pid != os.getpid()
        )
        if here and _runs(pid, info.get("pid_started")):
            raise ConfigError(
                f"resume={self.path}: process {pid} is still writing it; wait for it or stop it"
                " first"
            )

    def write_tables(self, tables: Tables) -> None:
        """Write each table as Parquet with a CSV beside it."""
        import pyarrow.parquet

        for name, table in tables.items():
            with atomic(self._inside("tables", f"{name}.parquet")) as partial:
                arrow = pyarrow.Table.from_pandas(table, preserve_index=False)
                stated = {
                    **(arrow.schema.metadata or {}),
                    b"schema_version": str(schema.VERSION).encode(),
                }
                pyarrow.parquet.write_table(arrow.replace_schema_metadata(stated), partial)
            self.write_csv(name, table)

    def write_csv(self, name: str, table: pd.DataFrame) -> None:
        """Write the CSV of a table, in which no text is taken for a formula."""
        with atomic(self._inside("tables", f"{name}.csv")) as partial:
            _for_spreadsheets(table).to_csv(partial, index=False)

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables, by name."""
        import pandas as pd

        return {
            path.stem: pd.read_parquet(path)
            for path in sorted((self.path / "tables").glob("*.parquet"))
        }

    def save_part(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep intermediate results, so that the run can be continued."""
        with atomic(self._inside("parts", f"{name}.npz")) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **dict[str, Any](arrays))

    def load_part(self, name: str) -> dict[str, np.ndarray] | None:
        """Intermediate results of that name, if they were saved."""

        def read(path: Path) -> dict[str, np.ndarray]:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)

        return self._load(f"{name}.npz", read)

    def save_rows(self, name: str, result: Any) -> None:
        """Keep what JSON can hold, to the last bit, infinities and NaN included."""
        write_text(self._inside("parts", f"{name}.json"), json.dumps(result))

    def load_rows(self, name: str) -> Any:
        """Return what was kept under that name; None if nothing was."""
        return self._load(f"{name}.json", lambda path: json.loads(path.read_text(encoding="utf-8")))

    def _load(self, name: str, read: Callable[[Path], T]) -> T | None:
        path = self.path / "parts" / name
        try:
            return read(path) if path.is_file() else None
        except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
            warnings.warn(
                f"{path}: cannot be read ({error!s:.100}); that part is done again",
                Notice,
                stacklevel=2,
            )
            return None

    def discard(self) -> None:
        """Remove a run that began and has nothing to show.

        What else is in its folder stays, and the folder with it.
        """
        self.drop_parts()
        for name in ("config.yaml", "run.json", "log.txt"):
            with contextlib.suppress(OSError):
                (self.path / name).unlink()
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def drop_partials(self) -> None:
        """Remove what a process that was killed had half written."""
        for path in self.path.rglob(".*.partial"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def drop_parts(self) -> None:
        """Remove what only an unfinished run needs."""
        shutil.rmtree(self.path / "parts", ignore_errors=True)
