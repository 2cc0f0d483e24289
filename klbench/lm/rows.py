"""Files of texts in several columns, examples and ranked pairs: JSON lines, Parquet, or plain lines. All of it is text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from klbench.types import ConfigError

Row = dict[str, str]


def check_path(path: str, keys: Sequence[str], *, lines: bool = False) -> None:
    """Check that there is a file of a known format, without reading it.

    Raises
    ------
    ConfigError
        There is none.
    """
    known = (".jsonl", ".parquet", *([".txt"] if lines else []))
    place = Path(path).expanduser()
    wanted = f"expected {', '.join(known)} with {', '.join(map(repr, keys))}" + (" (.txt: a text a line)" if lines else "")
    if not place.is_file():
        raise ConfigError(f"{path}: no such file; {wanted}")
    if place.suffix not in known:
        raise ConfigError(f"{path}: unknown format {place.suffix or 'without a suffix'!r}; {wanted}")


def load(path: str, keys: Sequence[str]) -> list[Row]:
    """All rows, each with a text for every key; a line of a .txt file is the last key's, the others are empty.

    Raises
    ------
    ConfigError
        Which file, line and key, and what was expected there.
    """
    file = Path(path).expanduser()
    found = list(_parquet(file, keys) if file.suffix == ".parquet" else _lines(file, keys))
    if not found:
        raise ConfigError(f"{path}: there is nothing in it")
    return found


def _lines(file: Path, keys: Sequence[str]) -> Iterator[Row]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as text in UTF-8 ({error})") from None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        if file.suffix == ".txt":
            yield dict.fromkeys(keys, "") | {keys[-1]: line}
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{where}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise ConfigError(f"{where}: expected an object with the keys {', '.join(keys)}, this is {type(row).__name__}")
        yield _checked(row, keys, where)


def _parquet(file: Path, keys: Sequence[str]) -> Iterator[Row]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            columns = table.schema_arrow.names
            missing = [key for key in keys if key not in columns]
            if missing:
                raise ConfigError(f"{file}: expected a column {missing[0]!r}, this file has {', '.join(columns)}")
            read = table.read(columns=list(keys)).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise ConfigError(f"{file}: cannot be read as Parquet ({str(error).splitlines()[0]})") from None
    for number, row in enumerate(read, 1):
        yield _checked(row, keys, f"{file}, row {number}")


def _checked(row: dict[str, object], keys: Sequence[str], where: str) -> Row:
    found: Row = {}
    for key in keys:
        value = row.get(key)
        if key not in row:
            raise ConfigError(f"{where}: no key {key!r}; expected {', '.join(keys)}, this one has {', '.join(row) or 'none'}")
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{where}: {key!r} must be text that is not empty, got {value!r:.60}")
        found[key] = value
    return found
