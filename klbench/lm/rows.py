"""Files of texts in one column or several, prompts and examples.

JSON lines, Parquet, or plain lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from klbench import inputs
from klbench.types import ConfigError

Row = dict[str, str]

EXAMPLE = ("prompt", "completion")
"""Keys of a file of examples."""


def check_path(path: str, keys: Sequence[str], *, lines: bool = False) -> None:
    """Check that there is a file of a known format, without reading it.

    Raises
    ------
    ConfigError
        There is none.
    """
    known = (".jsonl", ".parquet", *([".txt"] if lines else []))
    place = inputs.expanded(path)
    wanted = f"expected {', '.join(known)} with {', '.join(map(repr, keys))}" + (
        " (.txt: a text a line)" if lines else ""
    )
    found = inputs.kind(place)
    if found != inputs.FILE:
        raise ConfigError(
            f"{path}: {'no such file, it is a folder' if found == inputs.FOLDER else found};"
            f" {wanted}"
        )
    if place.suffix not in known:
        raise ConfigError(
            f"{path}: unknown format {place.suffix or 'without a suffix'!r}; {wanted}"
        )


def load(path: str, keys: Sequence[str], count: int | None = None) -> list[Row]:
    """The first ``count`` rows, or all, each with a text for every key.

    A line of a .txt file is the last key's, the others are empty.

    Raises
    ------
    ConfigError
        Which file, line and key, and what was expected there.
    """
    file = inputs.expanded(path)
    read, form = (_parquet, "Parquet") if file.suffix == ".parquet" else (_lines, "text in UTF-8")
    with inputs.refused(f"{file}: cannot be read as {form}"):
        found = list(islice(read(file, keys), count))
    if not found:
        raise ConfigError(f"{path}: there is nothing in it, expected {', '.join(keys)}")
    return found


def _lines(file: Path, keys: Sequence[str]) -> Iterator[Row]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{file}, line {number}"
            if file.suffix == ".txt":
                yield dict.fromkeys(keys, "") | {keys[-1]: line.rstrip("\r\n")}
                continue
            with inputs.refused(f"{where}: not JSON"):
                row = json.loads(line)
            if not isinstance(row, dict):
                wanted = f"the keys {', '.join(keys)}" if len(keys) > 1 else f"the key {keys[0]!r}"
                raise ConfigError(
                    f"{where}: expected an object with {wanted}, this is {type(row).__name__}"
                )
            yield checked(row, keys, where)


def _parquet(file: Path, keys: Sequence[str]) -> Iterator[Row]:
    for number, row in enumerate(parquet(file, keys), 1):
        yield checked(row, keys, f"{file}, row {number}")


def parquet(file: Path, keys: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, with those columns or all.

    Raises
    ------
    ConfigError
        It has no such column.
    """
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file) as table:
        columns = table.schema_arrow.names
        missing = [key for key in keys or () if key not in columns]
        if missing:
            raise ConfigError(
                f"{file}: expected a column {missing[0]!r}, this file has {', '.join(columns)}"
            )
        wanted = columns if keys is None else list(keys)
        for part in table.iter_batches(batch_size=1_024, columns=wanted):
            yield from part.to_pylist()


def checked(row: Mapping[str, object], keys: Sequence[str], where: str) -> Row:
    """The texts of a row.

    Raises
    ------
    ConfigError
        A key is missing, or what it has is no text.
    """
    found: Row = {}
    for key in keys:
        if key not in row:
            raise ConfigError(
                f"{where}: no key {key!r}; expected {', '.join(keys)}, this one has"
                f" {', '.join(row) or 'none'}"
            )
        value = row[key]
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{where}: {key!r} must be text that is not empty, got {value!r:.60}")
        with inputs.refused(f"{where}: {key!r} must be text"):
            inputs.check_text(value)
        found[key] = value
    return found
