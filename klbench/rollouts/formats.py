"""Readers of JSON lines, Parquet and npz, a block of rows at a time."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from klbench.rollouts.base import KNOWN, Block, Ragged, Reader, one_line
from klbench.types import ConfigError

BATCH = 1_024
"""Rows that are decoded from Parquet at a time."""
DEFLATED = 1_032
"""The most bytes that one byte of a compressed file can stand for."""


class JsonLines(Reader):
    """One JSON object a line; a row is a line, and its columns those of the first line."""

    def __init__(self, path: Path) -> None:
        self._place = (0, 0)  # a row, and the byte where its line begins
        super().__init__(path)

    def _lines(self, start: int, n: int) -> Iterator[tuple[int, bytes]]:
        row, offset = self._place if self._place[0] <= start else (0, 0)
        with self.path.open("rb") as file:
            file.seek(offset)
            while row < start and file.readline():
                row += 1
            for row in range(start, start + n):  # goes on from where it is
                self._place = row, file.tell()
                line = file.readline()
                if not line:
                    return
                if line.strip():
                    yield row, line
                elif file.read().strip():
                    raise self.fail(row, "an empty line")
            self._place = start + n, file.tell()

    def _objects(self, start: int, n: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for row, line in self._lines(start, n):
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{self.name} line {row + 1:,}: not JSON, {error}") from None
            if not isinstance(found, dict):
                raise ConfigError(
                    f"{self.name} line {row + 1:,}: expected a JSON object, got {type(found).__name__}"
                )
            yield row, found

    def _columns(self) -> list[str]:
        first = next(self._objects(0, 1), None)
        if first is None:
            raise ConfigError(f"{self.name}: the file is empty")
        return list(first[1])

    @cached_property
    def rows(self) -> int:
        lines = waiting = (
            0  # lines that are complete; line ends since the last thing that was written
        )
        with self.path.open("rb") as file:
            while block := file.read(2**20):
                kept = block.rstrip()
                if kept:
                    lines += waiting + kept.count(b"\n")
                    waiting = 0
                waiting += block.count(b"\n", len(kept))
        return lines + 1

    def read(self, start: int, n: int) -> Block:
        pieces: dict[str, list[np.ndarray]] = {
            name: [] for name in self.columns if name != "prompt"
        }
        prompts = []
        for row, found in self._objects(start, n):
            late = [
                name
                for name in found
                if name not in self.found and (name in KNOWN or "mask" in name.lower())
            ]
            if late:
                raise self.fail(row, f"column {late[0]!r}, which row 1 has not")
            for name in self.columns:
                if name not in found:
                    raise self.fail(row, f"no column {name!r}, which row 1 has")
                if name == "prompt":
                    prompts.append(found[name])
                else:
                    pieces[name].append(self._numbers(row, name, found[name]))
        return Block(
            {name: Ragged.of(each) for name, each in pieces.items()},
            prompts if "prompt" in self.columns else None,
        )

    def _numbers(self, row: int, name: str, value: Any) -> np.ndarray:
        try:
            # Not asked for float64 at once, which would read text as numbers.
            result = (
                np.array(value)
                if isinstance(value, list) and value
                else np.empty(0)
                if value == []
                else None
            )
            if (
                result is not None
                and result.dtype.kind == "O"
                and not any(isinstance(each, str) for each in value)
            ):
                result = np.array(value, dtype=np.float64)  # with null, which is NaN
            result = (
                None
                if result is None or result.dtype.kind not in "fiub"
                else result.astype(np.float64)
            )
        except (TypeError, ValueError, OverflowError):
            result = None
        if result is None or result.ndim != 1:
            text = json.dumps(value)
            raise self.fail(
                row,
                f"{name} must be a list of numbers, got {text if len(text) <= 60 else text[:57] + '...'}",
            )
        return result


class Parquet(Reader):
    """Columns of lists of numbers, in row groups of any size."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ConfigError(f"{path.name}: not a Parquet file, {one_line(error)}") from None
        self._next = -1
        self._batches: Iterator[Any] = iter(())
        self._left: Any = None
        super().__init__(path)
        for name in self.columns:
            if self._file.schema_arrow.names.count(name) > 1:
                raise ConfigError(f"{self.name}: column {name!r} is there more than once")
            kind = self._file.schema_arrow.field(name).type
            nested = (
                pa.types.is_list(kind)
                or pa.types.is_large_list(kind)
                or pa.types.is_fixed_size_list(kind)
            )
            inner = kind.value_type if nested else kind
            numeric = (
                pa.types.is_floating(inner)
                or pa.types.is_integer(inner)
                or pa.types.is_boolean(inner)
            )
            if name != "prompt" and not (nested and numeric):
                raise ConfigError(
                    f"{self.name}: column {name!r} must hold lists of numbers, it holds {kind}"
                )

    def _columns(self) -> list[str]:
        if not self._file.metadata.num_rows:
            raise ConfigError(f"{self.name}: the file has no rows")
        return list(self._file.schema_arrow.names)

    @property
    def rows(self) -> int:
        return int(self._file.metadata.num_rows)

    def _seek(self, start: int) -> None:
        """Go on to a row; or begin anew with its row group, where that is nearer, and drop what comes before it there."""
        metadata, first, group = self._file.metadata, 0, 0
        while (
            group < metadata.num_row_groups and first + metadata.row_group(group).num_rows <= start
        ):
            first += metadata.row_group(group).num_rows
            group += 1
        if not first <= self._next <= start:
            groups = list(range(group, metadata.num_row_groups))
            self._batches = (
                self._file.iter_batches(BATCH, row_groups=groups, columns=list(self.columns))
                if groups
                else iter(())
            )
            self._left, self._next = None, first
        while self._next < start and self._take(start - self._next) is not None:
            pass

    def _take(self, most: int) -> Any:
        """The next rows, at most so many, as one record batch; None at the end."""
        if self._left is None or not self._left.num_rows:
            try:
                self._left = next(self._batches, None)
            except (pa.ArrowException, OSError) as error:
                raise ConfigError(
                    f"{self.name}: cannot be read from row {self._next + 1:,} on, {one_line(error)}"
                ) from None
        if self._left is None:
            return None
        taken, self._left = self._left.slice(0, most), self._left.slice(most)
        self._next += taken.num_rows
        return taken

    def read(self, start: int, n: int) -> Block:
        if start != self._next:
            self._seek(start)
        parts = []
        while (missing := start + n - self._next) > 0 and (part := self._take(missing)) is not None:
            parts.append(part)
        names = [name for name in self.columns if name != "prompt"]
        if not parts:
            return Block(
                {name: Ragged.of([]) for name in names}, [] if "prompt" in self.columns else None
            )
        table = pa.Table.from_batches(parts)
        prompts = table["prompt"].to_pylist() if "prompt" in self.columns else None
        return Block({name: self._lists(start, name, table[name]) for name in names}, prompts)

    def _lists(self, start: int, name: str, column: Any) -> Ragged:
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy())[0])
            raise self.fail(start + row, f"{name} is missing")
        lengths = pc.list_value_length(column).to_numpy().astype(np.int64)
        values = pc.list_flatten(column).cast(pa.float64()).to_numpy()
        return Ragged(np.asarray(values, dtype=np.float64), lengths)


def _check_header(path: Path, file: Any, name: str) -> None:
    """Refuse an array that claims more bytes than the whole file can hold, before there is room made for them.

    Raises
    ------
    ValueError
        It does, or its header cannot be read.
    """
    inside = file.zip.namelist()
    with file.zip.open(name if name in inside else f"{name}.npy") as stream:
        readers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        version, _ = np.lib.format.read_magic(stream)
        if version not in readers:
            return  # only of arrays with named fields, which are no numbers
        shape, _, dtype = readers[version](stream)
    claimed = dtype.itemsize * math.prod(shape)
    if not dtype.hasobject and (
        min(shape, default=0) < 0 or claimed > DEFLATED * path.stat().st_size
    ):
        raise ValueError(
            f"it claims the shape {shape}, {claimed:,} bytes, in a file of {path.stat().st_size:,}"
        )


class Npz(Reader):
    """Rectangles of shape ``(rows, tokens)``; or flat arrays of all tokens, and ``lengths``, how many each row has."""

    def __init__(self, path: Path) -> None:
        if not zipfile.is_zipfile(path):
            raise ConfigError(f"{path.name}: not an npz file, as numpy.savez writes it")
        try:
            with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
                self._all = list(file.files)
                self._arrays = {
                    name: self._array(path, file, name)
                    for name in file.files
                    if name in (*KNOWN, "lengths")
                }
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001  # what zipfile and NumPy raise on damaged files is no closed list
            raise ConfigError(f"{path.name}: not a whole npz file, {one_line(error)}") from None
        super().__init__(path)
        self._check()

    @staticmethod
    def _array(path: Path, file: Any, name: str) -> np.ndarray:
        try:
            _check_header(path, file, name)
            array = np.asarray(file[name])
        except ValueError as error:
            if "pickle" not in str(error):
                raise ConfigError(
                    f"{path.name}: {name} cannot be read, {one_line(error)}"
                ) from None
            raise ConfigError(
                f"{path.name}: {name} holds pickled Python objects, which are not read; save numbers: a rectangle with a mask, "
                f"or all tokens one after the other, with lengths"
            ) from None
        if name != "prompt" and array.dtype.kind not in "fiub":
            raise ConfigError(f"{path.name}: {name} must hold numbers, it holds {array.dtype}")
        return array

    def _columns(self) -> list[str]:
        return [name for name in self._all if name != "lengths"]

    def _check(self) -> None:
        shape = self._arrays["logprobs"].shape
        lengths = self._arrays.get("lengths")
        flat = lengths is not None
        if lengths is not None and (
            lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 0).any()
        ):
            raise ConfigError(
                f"{self.name}: lengths must be whole numbers, one a row and none below 0; it has shape {lengths.shape} "
                f"and holds {lengths.dtype}"
                + (f", down to {lengths.min():g}" if lengths.size else "")
            )
        expected = (
            "all tokens one after the other, since there are lengths"
            if flat
            else "a rectangle (rows, tokens)"
        )
        if len(shape) != 2 - flat:
            raise ConfigError(f"{self.name}: logprobs has shape {shape}, expected {expected}")
        for name in self.columns:
            found = self._arrays[name].shape
            wanted = (self.rows,) if name == "prompt" else shape
            if found != wanted:
                raise ConfigError(
                    f"{self.name}: {name} has shape {found}, expected {wanted}, as logprobs has {shape}"
                )
        if not self.rows:
            raise ConfigError(f"{self.name}: the file has no rows")
        if lengths is not None:
            total = math.fsum(
                lengths
            )  # in integers of 64 bits, lengths that are wrong can sum to what is right
            if total != shape[0]:
                raise ConfigError(
                    f"{self.name}: lengths sum to {total:,.0f}, logprobs has {shape[0]:,}"
                )
            self._arrays["lengths"] = lengths.astype(np.int64)

    @property
    def rows(self) -> int:
        return len(self._arrays.get("lengths", self._arrays["logprobs"]))

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self._arrays["lengths"])])

    def read(self, start: int, n: int) -> Block:
        start, stop = min(start, self.rows), min(start + n, self.rows)
        columns = {}
        for name in self.columns:
            array = self._arrays[name]
            if name == "prompt":
                continue
            if "lengths" in self._arrays:
                part, lengths = (
                    array[self._ends[start] : self._ends[stop]],
                    self._arrays["lengths"][start:stop],
                )
            else:
                part, lengths = array[start:stop].ravel(), np.full(stop - start, array.shape[1])
            columns[name] = Ragged(part.astype(np.float64), lengths.astype(np.int64))
        prompts = self._arrays["prompt"][start:stop].tolist() if "prompt" in self.columns else None
        return Block(columns, prompts)


READERS: dict[str, type[Reader]] = {
    ".parquet": Parquet,
    ".pq": Parquet,
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
    ".npz": Npz,
}
