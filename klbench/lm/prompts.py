"""Prompts: the embedded ones, or those of a file or folder.

What such a file holds is text and nothing else.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from klbench import inputs
from klbench.lm import rows
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
    place = inputs.expanded(path)
    found = inputs.kind(place)
    if found not in (inputs.FILE, inputs.FOLDER):
        raise ConfigError(f"{path}: {found}; expected prompts as {_formats()}")
    if found == inputs.FILE and place.suffix not in SUFFIXES:
        raise ConfigError(
            f"{path}: unknown format {place.suffix or 'without a suffix'!r}; expected {_formats()}"
        )


def _formats() -> str:
    return (
        f".txt (one a line), .jsonl or .parquet (with {KEY!r}), or a folder that save_to_disk of"
        " datasets wrote"
    )


def load(path: str, count: int) -> list[str]:
    """The first ``count`` prompts, or all where there are fewer.

    An empty path stands for the embedded text.

    Raises
    ------
    ConfigError
        Which file, line and key, and what was expected there.
    """
    if not path:
        return list(corpus().prompts[:count])
    check_path(path)
    place = inputs.expanded(path)
    found = _from_dataset(place, count) if place.is_dir() else rows.load(path, (KEY,), count)
    return [row[KEY] for row in found]


def _from_dataset(folder: Path, count: int) -> list[rows.Row]:
    if importlib.util.find_spec("datasets") is None:
        raise ConfigError(
            f"{folder}: a folder needs datasets, which is not installed here; pip install"
            " 'klbench[lm]'"
        )
    datasets = importlib.import_module("datasets")
    with inputs.refused(f"{folder}: no folder that save_to_disk of datasets wrote"):
        for each in (
            folder,
            *(below for below in folder.iterdir() if below.is_dir()),
        ):  # a folder a split
            inputs.check_folder(each)
        loaded = datasets.load_from_disk(str(folder))
    if isinstance(loaded, datasets.DatasetDict):
        if "train" not in loaded and len(loaded) != 1:
            raise ConfigError(
                f"{folder}: has the splits {', '.join(loaded)}; name the folder of one of them"
            )
        loaded = loaded["train"] if "train" in loaded else next(iter(loaded.values()))
    if KEY not in loaded.column_names:
        raise ConfigError(
            f"{folder}: expected a column {KEY!r}, this one has {', '.join(loaded.column_names)}"
        )
    with inputs.refused(f"{folder}: cannot be read"):
        values = loaded[:count][KEY]
    found = [
        rows.checked({KEY: value}, (KEY,), f"{folder}, row {number}")
        for number, value in enumerate(values, 1)
    ]
    if not found:
        raise ConfigError(f"{folder}: there is nothing in it, expected {KEY}")
    return found
