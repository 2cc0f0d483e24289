"""Rows of a file as chunks of columns: JSON lines, JSON, and rows in memory."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from klbench.inputs import reason
from klbench.rollouts import engines
from klbench.rollouts.names import role_of
from klbench.types import ConfigError

BYTES_A_TOKEN = 64
"""The text of a token of two or three columns, about."""
MOST_BYTES = 2**24
"""The most text that is turned into Python's objects at a time, which take ten times its room."""
LOOK = 64
"""Rows that are looked at before a file is read."""
FEW = 2**14
"""Tokens that are looked at before a file is read, about."""


@dataclass(frozen=True)
class Chunk:
    """Some rows of a file: the row of each, counted from 0, the columns, and in words what went wrong."""

    where: Sequence[int]
    columns: Mapping[str, Any]
    findings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.where)


class Container(Protocol):
    """A file that can be read row by row, again and again, from any row on."""

    names: list[str]
    """The columns, as the first rows have them."""

    @property
    def rows(self) -> int | None:
        """The number of rows, where it is known without reading them."""

    def chunks(self, names: Collection[str] | None, tokens: int, start: int = 0) -> Iterator[Chunk]:
        """Chunks of about so many tokens, with these columns alone."""


def of_rows(
    rows: Sequence[tuple[int, Mapping[str, Any]]],
    names: Collection[str] | None,
    findings: Sequence[str] = (),
) -> Chunk:
    """Turn rows and their numbers into columns, with None where a row has none; a row may hold several rollouts."""
    flat = [(i, each) for i, row in rows for each in engines.rows(row)]
    names = list(dict.fromkeys(name for _, row in flat for name in row)) if names is None else names
    columns = {name: [row.get(name) for _, row in flat] for name in names}
    return Chunk([i for i, _ in flat], columns, tuple(findings))


@dataclass
class Rows:
    """Rows in memory: a JSON array, what torch wrote."""

    data: Sequence[Mapping[str, Any]]
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = list(of_rows(list(enumerate(self.data[:LOOK])), None).columns)

    @property
    def rows(self) -> int:
        return len(self.data)

    def chunks(self, names: Collection[str] | None, tokens: int, start: int = 0) -> Iterator[Chunk]:
        size = min(LOOK, tokens) if tokens <= FEW else 1024
        for first in range(start, self.rows, size):
            yield of_rows(list(enumerate(self.data[first : first + size], first)), names)


class JsonLines:
    """One JSON object a line, compressed or not; a line that is none is left out and told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        first = next(self.chunks(None, FEW), None)
        if first is None:
            raise ConfigError(f"{path.name}: the file is empty")
        if not len(first):
            raise ConfigError(first.findings[0])
        self.names = list(first.columns)
        self._known = {*self.names, *(name.split(".")[0] for name in self.names)}

    @cached_property
    def rows(self) -> int:
        with self._open() as file:
            return sum(1 for line in file if line.strip())

    def _open(self) -> io.BufferedReader:
        return io.BufferedReader(pa.input_stream(str(self.path), compression="detect"))

    def _late(self, row: Mapping[str, Any]) -> list[str]:
        """The columns of a row that matter and that the first rows have not."""
        new = () if row.keys() <= self._known else set(row) - self._known
        return [name for name in new if role_of(name) or "mask" in name.lower()]

    def chunks(self, names: Collection[str] | None, tokens: int, start: int = 0) -> Iterator[Chunk]:
        rows: list[tuple[int, Mapping[str, Any]]] = []
        size, findings = 0, []
        try:
            with self._open() as file:
                for row, line in enumerate(file):
                    if row < start or not line.strip():
                        continue
                    try:
                        found = json.loads(line)
                        if not isinstance(found, dict):
                            kind = type(found).__name__
                            findings.append(
                                f"{self.path.name} line {row + 1:,}: expected a JSON object, got {kind}"
                            )
                            continue
                        if names is not None and (late := self._late(found)):
                            findings.append(
                                f"{self.path.name} row {row + 1:,}: column {late[0]!r}, which the first rows have not"
                            )
                        rows.append((row, found))
                    except (ValueError, RecursionError) as error:
                        findings.append(
                            f"{self.path.name} line {row + 1:,}: not JSON, {reason(error)}"
                        )
                    size += len(line)
                    if size >= min(tokens * BYTES_A_TOKEN, MOST_BYTES):
                        yield of_rows(rows, names, findings)
                        rows, size, findings = [], 0, []
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(
                f"{self.path.name}: cannot be read to its end, {reason(error)}"
            ) from None
        if rows or findings:
            yield of_rows(rows, names, findings)


def json_file(path: Path) -> Container:
    """Return a JSON file's rows: an array, an object of columns, a table with ``columns`` and ``data``, or one response.

    Raises
    ------
    ConfigError
        It is none of these.
    """
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        try:
            return JsonLines(path)
        except ConfigError:
            raise ConfigError(f"{path.name}: not JSON, {reason(error)}") from None
    return rows_of(found, path)


def rows_of(found: Any, path: Path) -> Container:
    """Return the rows of plain data: an array of objects, an object of columns, a table, or a single row."""
    if isinstance(found, Mapping):
        header, data = found.get("columns"), found.get("data")
        if isinstance(header, list) and isinstance(data, list):
            found = [dict(zip(header, row, strict=False)) for row in data]
        elif (inner := found.get("samples")) is not None and isinstance(inner, list):
            outer = {k: v for k, v in found.items() if isinstance(v, int | float | str)}
            step = outer.pop("rollout_id", None)  # of slime, whose step is called so
            found = [({} if step is None else {"step": step}) | outer | dict(row) for row in inner]
        else:
            sizes = {len(value) for value in found.values() if isinstance(value, list)}
            lists = all(isinstance(value, list) for value in found.values())
            nested = any(
                isinstance(v, list) and v and isinstance(v[0], list) for v in found.values()
            )
            if lists and nested and len(sizes) == 1:
                found = [
                    dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)
                ]
            else:
                found = [found]
    if not isinstance(found, list) or not all(isinstance(row, Mapping) for row in found):
        raise ConfigError(
            f"{path.name}: expected rows or columns of rollouts, got {type(found).__name__}"
        )
    if not found:
        raise ConfigError(f"{path.name}: the file has no rows")
    return Rows(found)
