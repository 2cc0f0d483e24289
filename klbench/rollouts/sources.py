"""From what a user names to containers: a frame, a file, several, or a folder of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path

import pandas as pd

from klbench import inputs
from klbench.rollouts import arrays, containers, tables
from klbench.rollouts.containers import Container
from klbench.types import ConfigError


def _torch_file(path: Path) -> Container:
    """Read what torch saved; only then torch is imported, which takes a second."""
    read: Callable[[Path], Container] = import_module("klbench.rollouts.torch_files").torch_file
    return read(path)


READERS: dict[str, Callable[[Path], Container]] = {
    ".jsonl": containers.JsonLines,
    ".ndjson": containers.JsonLines,
    ".json": containers.json_file,
    ".parquet": tables.Parquet,
    ".pq": tables.Parquet,
    ".csv": tables.Csv,
    ".tsv": tables.Csv,
    ".arrow": lambda path: tables.Batches([path]),
    ".npz": arrays.npz,
    ".safetensors": arrays.tensors,
    ".pt": _torch_file,
    ".pth": _torch_file,
}
"""The reader of each suffix."""
COMPRESSED = {
    ".gz": (".jsonl", ".ndjson", ".csv", ".tsv"),
    ".zst": (".jsonl", ".ndjson", ".csv", ".tsv"),
}
"""The suffixes that may follow, and what on."""
MOST_FILES = 10_000
STEP = re.compile(r"(?:step|iter(?:ation)?|global_step|rollout|epoch|update)[_\-.]?(\d+)", re.I)


@dataclass(frozen=True)
class Source:
    """A file or a frame, opened where it is first read; ``step`` is what its name says of the step of training."""

    name: str
    paths: tuple[Path, ...] = ()
    frame: pd.DataFrame | None = None

    @cached_property
    def container(self) -> Container:
        if self.frame is not None:
            return tables.Frame(self.frame)
        if len(self.paths) > 1:
            return tables.Batches(self.paths)
        return READERS[suffix(self.paths[0]) or ""](self.paths[0])

    @property
    def step(self) -> int | None:
        """The number in the file's name, or in its folder's, that follows a word for a step, or is all there is."""
        for part in reversed(self.paths[0].parts[-3:]) if self.paths else ():
            found = STEP.findall(part) or re.fullmatch(r"(\d+)\.\w+", part)
            if found:
                return int(found[-1] if isinstance(found, list) else found[1])
        return None

    def __getstate__(self) -> dict[str, object]:
        return {"name": self.name, "paths": self.paths, "frame": self.frame}


def suffix(path: Path) -> str | None:
    """Return the suffix that says how to read a file, without what says that it is compressed; None where none does."""
    *rest, last = [each.lower() for each in path.suffixes] or [""]
    if last in COMPRESSED:
        return rest[-1] if rest and rest[-1] in COMPRESSED[last] else None
    return last if last in READERS else None


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key that puts ``step_10`` after ``step_9``."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(each), "") if each.isdigit() else (-1, each) for each in parts]


def _folder(path: Path) -> Iterator[Source]:
    """The sources in a folder: the splits that ``save_to_disk`` wrote, or all files that can be read."""
    states = sorted(path.rglob("state.json"), key=_natural)
    for state in states:
        shards = sorted(state.parent.glob("*.arrow"), key=_natural)
        if shards:
            yield Source(path.name if state.parent == path else state.parent.name, tuple(shards))
    if states:
        return
    files = [each for each in path.rglob("*") if suffix(each) and inputs.kind(each) == inputs.FILE]
    if len(files) > MOST_FILES:
        raise ConfigError(
            f"{path}: {len(files):,} files in it, more than {MOST_FILES:,}; name fewer"
        )
    for each in sorted(files, key=_natural):
        yield Source(str(each.relative_to(path)), (each,))


def sources(given: pd.DataFrame | str | Path | Sequence[str | Path]) -> list[Source]:
    """Return the sources that a user names.

    Raises
    ------
    ConfigError
        There is none, or its name says none of the formats.
    """
    if isinstance(given, pd.DataFrame):
        return [Source("frame", frame=given)]
    result: list[Source] = []
    for path in map(Path, [given] if isinstance(given, str | Path) else given):
        kind = inputs.kind(path)
        if kind == inputs.FOLDER:
            within = list(_folder(path))
            if not within:
                raise ConfigError(f"{path}: no file in it that can be read ({', '.join(READERS)})")
            result += within
        elif kind != inputs.FILE:
            raise ConfigError(f"{path}: {kind}")
        elif suffix(path) is None:
            raise ConfigError(
                f"{path.name}: expected a name that ends in {', '.join(READERS)} (.jsonl and .csv also with .gz or .zst), "
                "since that says how to read it"
            )
        else:
            result.append(Source(path.name, (path,)))
    if not result:
        raise ConfigError("name a file or a folder of rollouts")
    return result
