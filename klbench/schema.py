"""Tables as data: what a study writes and its page reads, column by column, is declared once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from klbench.rows import Rows
from klbench.types import ConfigError

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1
"""The version of klbench's tables, in each Parquet file as ``schema_version``.

Files without it are of version 0.
"""


Tables = Mapping[str, "pd.DataFrame"]
"""Tables by name."""

Type = Literal["float", "int", "text", "bool"]
MISSING: Mapping[str, Any] = {"float": math.nan, "int": math.nan, "text": "", "bool": False}
"""The value that stands for a missing one, by type."""


class SchemaError(RuntimeError):
    """A study wrote a table that its ``columns.py`` does not describe.

    A mistake in klbench, not of its user.
    """


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Parameters
    ----------
    name
        Its name in the files.
    meaning
        A phrase in words, as the data dictionary and the page's headings give it.
    unit
        ``nats``, ``s`` and such; empty for a pure number.
    type
        What it holds. An ``int`` column may have gaps, and is then one of floats.
    heading
        What the page writes over it; empty: the name.
    optional
        Only some runs have it.
    since
        The first schema version that has it; in tables of earlier ones it is missing without a
        warning.
    """

    name: str
    meaning: str
    unit: str = ""
    type: Type = "float"
    heading: str = ""
    optional: bool = False
    since: int = 0


def text(name: str, meaning: str, heading: str = "", **others: Any) -> Column:
    """Return a column of texts."""
    return Column(name, meaning, type="text", heading=heading, **others)


def integer(name: str, meaning: str, heading: str = "", **others: Any) -> Column:
    """Return a column of whole numbers."""
    return Column(name, meaning, type="int", heading=heading, **others)


def flag(name: str, meaning: str, heading: str = "", **others: Any) -> Column:
    """Return a column of yes and no."""
    return Column(name, meaning, type="bool", heading=heading, **others)


def _beside(column: Column, end: str, meaning: str) -> Column:
    """Return a column of the same kind that goes with another."""
    return replace(column, name=f"{column.name}_{end}", meaning=meaning, heading="")


def interval(column: Column, *, seeds: bool = False) -> tuple[Column, ...]:
    """Return a column and the ends of its 95 % interval, ``_low`` and ``_high``.

    With ``seeds``, also ``_seeds``.
    """
    low, high = (
        _beside(column, end, f"{word} end of the 95 % interval of {column.name}")
        for end, word in (("low", "lower"), ("high", "upper"))
    )
    number = _beside(column, "seeds", f"seeds that {column.name} is the mean of")
    return (column, low, high, *([replace(number, unit="", type="int")] if seeds else []))


def band(column: Column) -> tuple[Column, ...]:
    """Return a column and the quantiles that hold the middle 80 % of the seeds, ``_low`` and
    ``_high``.
    """
    low, high = (
        _beside(column, end, f"{share} quantile of {column.name} over seeds")
        for end, share in (("low", "10 %"), ("high", "90 %"))
    )
    return (column, low, high)


def with_error(column: Column) -> tuple[Column, Column]:
    """Return a column and its standard error, ``_se``."""
    return (column, _beside(column, "se", f"standard error of {column.name}"))


@dataclass(frozen=True)
class Schema:
    """A table: its name, the meaning of a row, and its columns.

    Parameters
    ----------
    table
        The stem of its file in ``tables/``.
    meaning
        What one row is.
    columns
        In the order of the file.
    optional
        Only some runs have the table.
    migrate
        Makes a table of an earlier schema version into one of this version: ``migrate(frame,
        version)``.
    """

    table: str
    meaning: str
    columns: tuple[Column, ...]
    optional: bool = False
    migrate: Callable[[pd.DataFrame, int], pd.DataFrame] | None = None

    def __post_init__(self) -> None:
        if twice := {name for name in self.names if self.names.count(name) > 1}:
            raise ValueError(f"table {self.table}: columns {sorted(twice)} stand twice")

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [column.name for column in self.columns]

    def frame(self, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
        """Return rows as a table with all columns, in their order."""
        import pandas as pd

        return pd.DataFrame(rows, columns=self.names)

    def __getitem__(self, name: str) -> Column:
        """Return the column of that name.

        Raises
        ------
        KeyError
            There is none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"table {self.table} has no column {name!r}")

    def missing(self, frame: pd.DataFrame) -> list[str]:
        """Return the names of the columns that a table must have and this one lacks."""
        return [
            column.name
            for column in self.columns
            if not column.optional and column.name not in frame
        ]

    def check(self, frame: pd.DataFrame) -> None:
        """Hold a table against its columns before it is written.

        Raises
        ------
        SchemaError
            A column is missing, unknown, or of another type.
        """
        faults = [f"lacks {name}" for name in self.missing(frame)]
        faults += [
            f"has {name}, which is not declared"
            for name in map(str, frame.columns)
            if name not in self.names
        ]
        faults += [
            f"has {column.name} of dtype {frame[column.name].dtype}, declared as {column.type}"
            for column in self.columns
            if column.name in frame and not _holds(frame[column.name], column.type)
        ]
        if faults:
            raise SchemaError(f"table {self.table} {'; '.join(faults)}")

    def migrated(self, frame: pd.DataFrame, version: int) -> pd.DataFrame:
        """Return a table of an earlier version with today's columns.

        Those that it could not have are filled as missing. One of this version that lacks a later
        column was written before that column came, and gets what follows from its others.
        """
        if version >= VERSION and not any(self[name].since for name in self.missing(frame)):
            return frame
        frame = self.migrate(frame, version) if self.migrate else frame
        new = {
            column.name: MISSING[column.type]
            for column in self.columns
            if column.since > version and not column.optional and column.name not in frame
        }
        return frame.assign(**new) if new else frame

    def rows(self, frame: pd.DataFrame) -> Rows:
        """Return the rows with every column of the schema.

        What the table lacks, and missing texts, as :data:`MISSING`.
        """
        absent = {
            column.name: MISSING[column.type] for column in self.columns if column.name not in frame
        }
        texts = [
            column.name for column in self.columns if column.type == "text" and column.name in frame
        ]
        return [
            row | absent | {name: "" for name in texts if not isinstance(row[name], str)}
            for row in records(frame)
        ]

    def example(self, rows: int = 1, **columns: Any) -> pd.DataFrame:
        """Return a table with the given columns and a plain value of the right type in all others:
        for tests of pages.

        Raises
        ------
        KeyError
            A given column is not declared.
        """
        plain = {"float": 0.5, "int": 1, "text": "text", "bool": True}
        unknown = set(columns) - set(self.names)
        if unknown:
            raise KeyError(f"table {self.table} has no columns {sorted(unknown)}")
        rows = max(
            [rows, *(len(values) for values in columns.values() if isinstance(values, list))]
        )
        data = {
            column.name: columns.get(column.name, plain[column.type])
            for column in self.columns
            if column.name in columns or not column.optional
        }
        lists = [value if isinstance(value, list) else [value] * rows for value in data.values()]
        found = [dict(zip(data, values, strict=True)) for values in zip(*lists, strict=True)]
        return self.frame(found)[list(data)]


def _holds(values: pd.Series[Any], kind: Type) -> bool:
    """Tell whether a column's values are of a type, missing ones left out."""
    values = values.dropna()
    if not len(values):
        return True
    if kind == "bool":
        return values.dtype.kind == "b" or all(isinstance(value, bool) for value in values)
    if kind == "text":
        return values.dtype == "str" or all(isinstance(value, str) for value in values)
    if values.infer_objects().dtype.kind not in "iuf":
        return False
    return kind == "float" or bool((values == values.round()).all())


def records(table: pd.DataFrame) -> Rows:
    """Return the rows of a table."""
    return cast("Rows", table.to_dict("records"))


def by_table(schemas: Sequence[Schema]) -> dict[str, Schema]:
    """Return schemas by the name of their table.

    Raises
    ------
    ValueError
        Two are of one table.
    """
    found: dict[str, Schema] = {}
    for schema in schemas:
        if schema.table in found:
            raise ValueError(f"table {schema.table} is declared twice")
        found[schema.table] = schema
    return found


def check(schemas: Sequence[Schema], tables: Tables) -> None:
    """Hold the tables of a run against what its study declares.

    Every table of its own stands, as after Ctrl-C, for itself.

    Raises
    ------
    SchemaError
        A table is not declared, or not as declared.
    """
    declared = by_table(schemas)
    for name, frame in tables.items():
        if name not in declared:
            raise SchemaError(
                f"table {name} is not declared; the study declares {', '.join(declared)}"
            )
        declared[name].check(frame)


def version_of(said: Mapping[bytes, bytes] | None) -> int:
    """Return the schema version that a Parquet file's metadata states; 0 where it states none.

    Raises
    ------
    ConfigError
        It is a later one than this klbench writes, or no number.
    """
    raw = (said or {}).get(b"schema_version", b"0")
    if not raw.isdigit() or int(raw) > VERSION:
        raise ConfigError(
            f"schema_version {raw!r:.40} is not one that this klbench reads (up to {VERSION}); use"
            " a later klbench"
        )
    return int(raw)
