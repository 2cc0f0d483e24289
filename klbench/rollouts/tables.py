"""Tables as chunks of columns: comma-separated text, frames, Parquet, and Arrow's files."""

from __future__ import annotations

import csv
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from klbench.inputs import reason
from klbench.rollouts import engines
from klbench.rollouts.containers import FEW, LOOK, Chunk, of_rows
from klbench.types import ConfigError


class Csv:
    """Comma- or tab-separated columns; a list is written as text, ``[-0.1, -0.2]``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        csv.field_size_limit(sys.maxsize)
        first = next(self.chunks(None, FEW), None)
        if first is None or not len(first):
            raise ConfigError(f"{path.name}: the file has no rows")
        self.names, self.rows = list(first.columns), None

    def chunks(self, names: Collection[str] | None, tokens: int, start: int = 0) -> Iterator[Chunk]:
        separator = "\t" if ".tsv" in self.path.suffixes else ","
        row = 0
        try:
            size = LOOK if tokens <= FEW else 2**12
            with pd.read_csv(self.path, sep=separator, chunksize=size, low_memory=False) as file:
                for part in file:
                    kept = part.iloc[max(start - row, 0) :]
                    if len(kept):
                        yield _frame(kept, row + len(part) - len(kept), names)
                    row += len(part)
        except (ValueError, OSError, UnicodeError) as error:
            raise ConfigError(f"{self.path.name}: not a table of text, {reason(error)}") from None


def _frame(frame: pd.DataFrame, first: int, names: Collection[str] | None) -> Chunk:
    columns = {
        str(name): _series(frame.iloc[:, i])
        for i, name in enumerate(frame.columns)
        if names is None or str(name) in names
    }
    return Chunk(range(first, first + len(frame)), columns)


def _series(series: pd.Series[Any]) -> Any:
    if series.dtype.kind in "fiub" and series.dtype.kind != "b":
        return pa.array(series.to_numpy())
    result = series.tolist()
    return [None if isinstance(each, float) and each != each else each for each in result]


class Frame:
    """A DataFrame in memory."""

    def __init__(self, frame: pd.DataFrame) -> None:
        if not len(frame):
            raise ConfigError("the frame has no rows")
        self.frame, self.names = frame, [str(name) for name in frame.columns]
        self.rows = len(frame)

    def chunks(self, names: Collection[str] | None, tokens: int, start: int = 0) -> Iterator[Chunk]:
        size = LOOK if tokens <= FEW else 2**13
        for first in range(start, len(self.frame), size):
            yield _expanded(_frame(self.frame.iloc[first : first + size], first, names), names)


def _expanded(chunk: Chunk, names: Collection[str] | None) -> Chunk:
    """Take apart columns of objects, and rows of several completions."""
    nested = any(
        isinstance(column, list) and any(isinstance(each, dict) for each in column[:LOOK])
        for column in chunk.columns.values()
    )
    several = any(name.rsplit(".", 1)[-1] in engines.SEVERAL for name in chunk.columns)
    if not (nested or several):
        return chunk
    columns = {k: v if isinstance(v, list) else v.to_pylist() for k, v in chunk.columns.items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return of_rows(list(zip(chunk.where, rows, strict=True)), None)


class Batches:
    """A table of Arrow's in pieces: a Parquet file, or the files that ``save_to_disk`` of datasets writes."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths, self.name = paths, paths[0].name
        first = next(self.chunks(None, FEW), None)
        if first is None:
            raise ConfigError(f"{self.name}: the file has no rows")
        self.names = list(first.columns)

    @property
    def rows(self) -> int | None:
        return None

    def chunks(self, names: Collection[str] | None, tokens: int, start: int = 0) -> Iterator[Chunk]:
        row = 0
        try:
            for path in self.paths:
                for batch in self._batches(path, names, tokens, start - row):
                    if isinstance(batch, int):  # rows that were passed over
                        row += batch
                        continue
                    part = batch.slice(max(start - row, 0))
                    where = range(row + batch.num_rows - part.num_rows, row + batch.num_rows)
                    row += batch.num_rows
                    if part.num_rows:
                        yield _of_batch(part, where, names)
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"{self.name}: cannot be read from row {row + 1:,} on, {reason(error)}"
            ) from None

    def _batches(
        self, path: Path, names: Collection[str] | None, tokens: int, skipped: int
    ) -> Iterator[Any]:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            for batch in stream:
                batch.validate(full=True)  # Arrow ends the process over offsets that are wrong
                rows = _rows_for(tokens, batch.nbytes / 8.0, batch.num_rows)
                for first in range(0, batch.num_rows, rows):
                    yield batch.slice(first, rows)


class Parquet(Batches):
    """Columns of lists of numbers, or of numbers, in row groups of any size."""

    def __init__(self, path: Path) -> None:
        try:
            with pq.ParquetFile(path) as file:
                self._rows, columns = int(file.metadata.num_rows), file.schema_arrow.names
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ConfigError(f"{path.name}: not a Parquet file, {reason(error)}") from None
        twice = [name for name in columns if columns.count(name) > 1]
        if twice:
            raise ConfigError(f"{path.name}: column {twice[0]!r} is there more than once")
        super().__init__([path])

    @property
    def rows(self) -> int:
        return self._rows

    def _batches(
        self, path: Path, names: Collection[str] | None, tokens: int, skipped: int
    ) -> Iterator[Any]:
        with pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
            meta = file.metadata
            groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
            most = max(
                (sum(g.column(i).num_values for g in groups) for i in range(meta.num_columns)),
                default=0,
            )
            kept = list(range(len(groups)))
            while kept and groups[kept[0]].num_rows <= skipped:
                skipped -= groups[kept[0]].num_rows
                yield groups[kept.pop(0)].num_rows
            top = set(file.schema_arrow.names)
            columns = None if names is None or not set(names) <= top else list(names)
            rows = _rows_for(tokens, most, meta.num_rows)
            if kept:
                yield from file.iter_batches(rows, row_groups=kept, columns=columns)


def _rows_for(tokens: int, values: float, rows: int) -> int:
    return max(1, int(tokens * rows / max(values, 1.0)))


def _of_batch(batch: Any, where: Sequence[int], names: Collection[str] | None) -> Chunk:
    table = pa.Table.from_batches([batch])
    while any(pa.types.is_struct(column.type) for column in table.schema):
        table = table.flatten()
    columns = {
        name: column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        for name, column in zip(table.column_names, table.columns, strict=True)
        if names is None or name in names or name.rsplit(".", 1)[-1] in engines.SEVERAL
    }
    return _expanded(Chunk(where, columns), names)
