"""Files and frames as chunks of rows: each column Arrow's array, or a list of Python's objects."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from klbench.types import ConfigError

BYTES_A_TOKEN = 32
"""What a token of two or three columns takes as text, about."""


@dataclass(frozen=True)
class Chunk:
    """Some rows of a file from row ``start`` (counted from 0) on, and in words what went wrong in it."""

    start: int
    rows: int
    columns: dict[str, Any]
    findings: tuple[str, ...] = ()


class Container(Protocol):
    """A file that can be read row by row, again and again."""

    @property
    def names(self) -> list[str]:
        """The columns, as the first rows have them."""

    def chunks(self, names: Collection[str] | None, tokens: int, start: int = 0) -> Iterator[Chunk]:
        """Chunks of about so many tokens, with these columns alone, from a row on."""


class JsonLines:
    """One JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        first = next(self.chunks(None, 2**12), None)
        if first is None:
            raise ConfigError(f"{path.name}: the file is empty")
        self.names = list(first.columns)

    def chunks(self, names: Collection[str] | None, tokens: int, start: int = 0) -> Iterator[Chunk]:
        row, rows, size = 0, [], 0
        with self.path.open("rb") as file:
            for row, line in enumerate(file):
                if row < start or not line.strip():
                    continue
                try:
                    found = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise ConfigError(
                        f"{self.path.name} line {row + 1:,}: not JSON, {error}"
                    ) from None
                if not isinstance(found, dict):
                    raise ConfigError(
                        f"{self.path.name} line {row + 1:,}: expected a JSON object, "
                        f"got {type(found).__name__}"
                    )
                rows.append(found)
                size += len(line)
                if size >= tokens * BYTES_A_TOKEN:
                    yield columned(row + 1 - len(rows), rows, names)
                    rows, size = [], 0
        if rows:
            yield columned(row + 1 - len(rows), rows, names)


def columned(start: int, rows: list[dict[str, Any]], names: Collection[str] | None) -> Chunk:
    """Turn rows into columns, with None where a row has none."""
    names = list(dict.fromkeys(name for row in rows for name in row)) if names is None else names
    return Chunk(start, len(rows), {name: [row.get(name) for row in rows] for name in names})


class Parquet:
    """Columns of lists of numbers, in row groups of any size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ConfigError(
                f"{path.name}: not a Parquet file, {' '.join(str(error).split())[:120]}"
            ) from None
        self.names = list(file.schema_arrow.names)
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        self.rows = file.metadata.num_rows
        values = max(
            (sum(g.column(i).num_values for g in groups) for i in range(file.metadata.num_columns)),
            default=0,
        )
        self.tokens_a_row = values / max(self.rows, 1)
        if not self.rows:
            raise ConfigError(f"{path.name}: the file has no rows")

    def chunks(self, names: Collection[str] | None, tokens: int, start: int = 0) -> Iterator[Chunk]:
        size = max(1, int(tokens / max(self.tokens_a_row, 1.0)))
        with pq.ParquetFile(self.path) as file:
            row = 0
            columns = None if names is None else list(names)
            for batch in file.iter_batches(size, columns=columns):
                part = batch.slice(max(start - row, 0))
                if part.num_rows:
                    arrays = dict(zip(part.schema.names, part.columns, strict=True))
                    yield Chunk(row + batch.num_rows - part.num_rows, part.num_rows, arrays)
                row += batch.num_rows


class Frame:
    """A DataFrame in memory."""

    def __init__(self, frame: pd.DataFrame) -> None:
        if not len(frame):
            raise ConfigError("the frame has no rows")
        self.frame, self.names = frame, [str(name) for name in frame.columns]

    def chunks(self, names: Collection[str] | None, tokens: int, start: int = 0) -> Iterator[Chunk]:
        step = 2**13
        kept = [i for i, name in enumerate(self.names) if names is None or name in names]
        for first in range(start, len(self.frame), step):
            part = self.frame.iloc[first : first + step]
            columns = {self.names[i]: _series(part.iloc[:, i]) for i in kept}
            yield Chunk(first, len(part), columns)


def _series(series: pd.Series) -> Any:
    if series.dtype == object:
        return series.tolist()
    result = pa.Array.from_pandas(series)
    return result.combine_chunks() if isinstance(result, pa.ChunkedArray) else result


def container(source: pd.DataFrame | Path) -> Container:
    """Return the container of a frame or a file."""
    if isinstance(source, pd.DataFrame):
        return Frame(source)
    return Parquet(source) if source.suffix.lower() in (".parquet", ".pq") else JsonLines(source)
