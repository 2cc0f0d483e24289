"""Input from outside.

Only regular files and folders, plain data of bounded depth, and one line for each mistake.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Never

import yaml

from klbench.errors import ConfigError, RunError

FILE, FOLDER = "a file", "a folder"
DEEPEST = 64
"""Levels of a configuration, or of any other file that is read whole.

None that is meant comes near.
"""
MOST_VALUES = 1_000_000
"""Values in it, counted as often as they are referred to.

A few lines of YAML can name one list a billion times.
"""
MOST_CHARACTERS = 200
BEGINS = b'{\n  "schema_version"'
"""The first bytes of a file of ``--json``."""
_SPECIAL = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def conf_folder() -> Path:
    """Return the folder of the configuration.

    Beside the package in a checkout, inside it in a wheel.
    """
    package = Path(__file__).resolve().parent
    return next(path for path in (package / "conf", package.parent / "conf") if path.is_dir())


def kind(path: str | Path) -> str:
    """``FILE`` or ``FOLDER``, links followed; else, in words, why it is neither. Nothing is opened.

    A pipe would be waited for without end, and some devices have no end: neither is ever read.
    """
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "no such file"
    except (OSError, ValueError) as error:
        return f"no such file, {reason(error)}"
    if stat.S_ISREG(mode):
        return FILE
    return (
        FOLDER
        if stat.S_ISDIR(mode)
        else f"{_SPECIAL.get(stat.S_IFMT(mode), 'special')}, neither a file nor a folder"
    )


def check_folder(folder: Path) -> None:
    """Refuse a folder with pipes, sockets or devices in it, before a reader of somebody else's
    opens them.

    Raises
    ------
    ConfigError
        The first one, or why the folder cannot be looked into.
    """
    with refused(f"{folder}: cannot be looked into"):
        entries = sorted(folder.iterdir())
    for entry in entries:
        found = kind(entry)
        if found.endswith("nor a folder"):
            raise ConfigError(f"{entry}: {found}")


def reason(error: BaseException, most: int = MOST_CHARACTERS) -> str:
    """Return an error's message as one line that any terminal can show.

    With its type, if it was not made for users.
    """
    if isinstance(error, RecursionError):
        return "nested too deeply"
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join(said.split()).encode("utf-8", "backslashreplace").decode()
    if not isinstance(error, OSError | ValueError | RuntimeError) or not text:
        text = f"{type(error).__name__}: {text}".rstrip(": ")
    return text if len(text) <= most else text[: most - 3] + "..."


@contextlib.contextmanager
def refused(what: str) -> Iterator[None]:
    """Make one line of whatever goes wrong while something from outside is taken in.

    ``what``, and the reason.

    The guard of a border. Parsers, Hydra and transformers raise nearly anything on input that is
    wrong: a list would never be whole. A mistake of klbench's own looks the same here, so the error
    that it was stays attached as the cause.

    Raises
    ------
    ConfigError
        In place of every other exception but ``RunError``.
    """
    try:
        yield
    except (ConfigError, RunError):
        raise
    except Exception as error:
        shown = what.encode("utf-8", "backslashreplace").decode()
        raise ConfigError(f"{shown}: {reason(error)}") from error


def read_text(path: Path) -> str:
    """A regular file as text in UTF-8.

    Raises
    ------
    ConfigError
        It is no regular file, or cannot be read.
    """
    found = kind(path)
    if found != FILE:
        raise ConfigError(f"{path}: {'is a folder, expected a file' if found == FOLDER else found}")
    with refused(f"{path}: cannot be read as text in UTF-8"):
        return path.read_text(encoding="utf-8")


def new_json(file: str) -> Path:
    """Return where ``--json`` writes: a new file, or one that ``--json`` wrote before.

    Raises
    ------
    ConfigError
        It has no folder, is a link or no regular file, or holds something else, which would be
        lost.
    """
    path = expanded(file)
    if path.is_symlink():  # such as /dev/stdout: the link itself would be replaced
        raise ConfigError(f"--json {file}: is a link, expected a file")
    if not file or not path.parent.is_dir() or (path.exists() and kind(path) != FILE):
        raise ConfigError(f"--json {file}: expected a file in a folder that exists")
    if path.exists() and path.stat().st_size:
        with refused(f"--json {file}"), path.open("rb") as opened:
            if not opened.read(len(BEGINS)).startswith(BEGINS):
                raise ConfigError(
                    f"--json {file}: exists already, and --json did not write it; name a new file"
                )
    return path


def for_json(value: Any, nan: str | None = None) -> Any:
    """Return the same as data that JSON can hold: ``nan`` for NaN, a word for an infinity."""
    if isinstance(value, Mapping):
        return {str(key): for_json(each, nan) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [for_json(each, nan) for each in value]
    if isinstance(value, bool | str | int | None):
        return value
    number = float(value)
    return number if math.isfinite(number) else nan if math.isnan(number) else str(number)


def write_json(path: Path, found: Mapping[str, Any]) -> None:
    """Write what ``--json`` asks for, whole or not at all.

    Raises
    ------
    ConfigError
        It cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"--json {path}: {reason(error)}") from None


class VerbParser(argparse.ArgumentParser):
    """The arguments of a verb, ``klbench VERB ...``; what is wrong with them is one line.

    Raises
    ------
    ConfigError
        From ``parse_args``: it opens with the verb.
    """

    def __init__(self, verb: str, question: str, examples: str) -> None:
        super().__init__(
            prog=f"klbench {verb}",
            description=question,
            epilog=examples,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._verb = verb

    def error(self, message: str) -> Never:
        raise ConfigError(f"{self._verb}: {message}")


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file.

    Raises
    ------
    ConfigError
        It cannot be read, or not as plain JSON.
    """
    text = read_text(path)
    with refused(f"{path}: cannot be read as JSON"):
        return plain(json.loads(text))


def read_yaml(path: Path) -> Any:
    """Return the contents of a YAML file; nothing in it is run or looked up.

    Raises
    ------
    ConfigError
        It cannot be read, or not as plain YAML.
    """
    text = read_text(path)
    with refused(f"{path}: cannot be read as plain YAML"):
        return plain(yaml.safe_load(text))


def plain(data: Any) -> Any:
    """The same data, once it is known to be neither too deep nor too large to work with, and its
    text to be text.

    Raises
    ------
    ValueError
        It is.
    """
    left, seen = [(data, 0)], 0
    while left:
        value, depth = left.pop()
        seen += 1
        if depth > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} levels deep")
        if seen > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values")
        if isinstance(value, dict):
            left += [(each, depth + 1) for pair in value.items() for each in pair]
        elif isinstance(value, list | tuple):
            left += [(each, depth + 1) for each in value]
        elif isinstance(value, str):
            check_text(value)
    return data


def check_text(text: str) -> None:
    """Refuse what no file can hold: halves of characters (lone surrogates), which JSON can spell.

    Raises
    ------
    ValueError
        Which, and where.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = text[error.start].encode("utf-8", "backslashreplace").decode()
        raise ValueError(
            f"character {error.start + 1} is {half}, half of a character, which UTF-8 cannot hold"
        ) from None


def expanded(path: str | Path) -> Path:
    """The path with ``~`` and ``~name`` replaced where such a home is known."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # no such user is no error
