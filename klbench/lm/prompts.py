"""Prompts: the embedded ones, or those of a file or folder. What such a file holds is text and nothing else."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

from klbench.lm.corpus import corpus
from klbench.types import ConfigError

SUFFIXES = (".txt", ".jsonl", ".parquet")
KEY = "prompt"


def check_path(path: str) -> None:
    """Check that there is something to read, without reading it.

    Raises
    ------
    ConfigError
        Nothing is there, or of a format that is not known here.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise ConfigError(f"{path}: no such file; expected prompts as {_formats()}")
    if place.is_file() and place.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: unknown format {place.suffix or 'without a suffix'!r}; expected {_formats()}")


def _formats() -> str:
    return f".txt (one a line), .jsonl or .parquet (with {KEY!r}), or a folder that save_to_disk of datasets wrote"


def load(path: str, count: int) -> list[str]:
    """The first ``count`` prompts, or all where there are fewer; an empty path stands for the embedded text.

    Raises
    ------
    ConfigError
        Which file, line and key, and what was expected there.
    """
    if not path:
        return list(corpus().prompts[:count])
    check_path(path)
    place = Path(path).expanduser()
    if place.is_dir():
        found = _from_dataset(place, count)
    elif place.suffix == ".parquet":
        found = _from_parquet(place, count)
    else:
        found = _from_lines(place, count)
    if not found:
        raise ConfigError(f"{path}: there are no prompts in it")
    return found


def _from_lines(file: Path, count: int) -> list[str]:
    found: list[str] = []
    try:
        with file.open(encoding="utf-8") as lines:
            for prompt in _parsed(file, lines):
                found.append(prompt)
                if len(found) == count:
                    break
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as text in UTF-8 ({error})") from None
    return found


def _parsed(file: Path, lines: Iterator[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if file.suffix == ".txt":
            yield line.rstrip("\r\n")
            continue
        where = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{where}: not JSON ({error})") from None
        if not isinstance(row, dict) or KEY not in row:
            have = f"has {', '.join(map(str, row)) or 'no keys'}" if isinstance(row, dict) else f"is {type(row).__name__}"
            raise ConfigError(f"{where}: expected an object with the key {KEY!r}, this one {have}")
        yield _checked(row[KEY], where)


def _checked(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}: {KEY!r} must be text that is not empty, got {value!r:.60}")
    return value


def _from_parquet(file: Path, count: int) -> list[str]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            columns = table.schema_arrow.names
            if KEY not in columns:
                raise ConfigError(f"{file}: expected a column {KEY!r}, this file has {', '.join(columns)}")
            values: list[object] = []
            for part in table.iter_batches(batch_size=1_024, columns=[KEY]):
                values += part.column(0).to_pylist()
                if len(values) >= count:
                    break
    except (OSError, pyarrow.ArrowException) as error:
        raise ConfigError(f"{file}: cannot be read as Parquet ({str(error).splitlines()[0]})") from None
    return [_checked(value, f"{file}, row {number}") for number, value in enumerate(values[:count])]


def _from_dataset(folder: Path, count: int) -> list[str]:
    if importlib.util.find_spec("datasets") is None:
        raise ConfigError(f"{folder}: a folder needs datasets, which is not installed here; pip install 'klbench[lm]'")
    datasets = importlib.import_module("datasets")
    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{folder}: no folder that save_to_disk of datasets wrote ({str(error).splitlines()[0]})") from None
    if isinstance(loaded, datasets.DatasetDict):
        if "train" not in loaded and len(loaded) != 1:
            raise ConfigError(f"{folder}: has the splits {', '.join(loaded)}; name the folder of one of them")
        loaded = loaded["train"] if "train" in loaded else next(iter(loaded.values()))
    if KEY not in loaded.column_names:
        raise ConfigError(f"{folder}: expected a column {KEY!r}, this one has {', '.join(loaded.column_names)}")
    values = loaded[:count][KEY]
    return [_checked(value, f"{folder}, row {number}") for number, value in enumerate(values)]
