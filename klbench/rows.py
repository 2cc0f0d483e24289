"""Rows of tables: chosen, grouped and indexed by the values of their columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeVar

Row = dict[str, Any]
"""One row of a table: every column of its schema by name, those that the table lacks included."""
Rows = list[Row]
Some = TypeVar("Some", bound=Mapping[str, Any])


def where(rows: Iterable[Some], /, **values: Any) -> list[Some]:
    """Return the rows whose columns have the given values."""
    wanted = values.items()
    return [row for row in rows if all(row[name] == value for name, value in wanted)]


def distinct(rows: Iterable[Mapping[str, Any]], column: str) -> list[Any]:
    """Return the values of a column, each once, in the order in which they first come."""
    return list(dict.fromkeys(row[column] for row in rows))


def finite(rows: Iterable[Some], *names: str) -> list[Some]:
    """Return the rows that have a finite number in each of these columns."""
    return [row for row in rows if all(math.isfinite(row[name]) for name in names)]


def rising(rows: Iterable[Some], name: str) -> list[Some]:
    """Return rows by the rising values of a column."""
    return sorted(rows, key=itemgetter(name))


def column_of(rows: Iterable[Mapping[str, Any]], name: str) -> list[Any]:
    """Return the values of a column, a row each."""
    return [row[name] for row in rows]


def columns_of(rows: Sequence[Mapping[str, Any]], *names: str) -> list[list[Any]]:
    """Return columns of rows, a list each."""
    return [column_of(rows, name) for name in names]


def keyed(rows: Iterable[Some], column: str) -> dict[Any, Some]:
    """Return rows by the value of a column; of several with the same one the last."""
    return {row[column]: row for row in rows}


def grouped(rows: Iterable[Some], *columns: str) -> dict[Any, list[Some]]:
    """Return the rows of each value of a column, or of each tuple of values of several."""
    found: dict[Any, list[Some]] = {}
    for row in rows:
        values = tuple(row[column] for column in columns)
        found.setdefault(values[0] if len(values) == 1 else values, []).append(row)
    return found
