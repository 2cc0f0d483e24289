"""Tables of a page as data: a column of the schema, and how a row shows it, in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from klbench.report import cells
from klbench.report.blocks import Column, Details, Table, Text
from klbench.report.cells import Show
from klbench.rows import Row as Row
from klbench.schema import Schema as Schema

NAMES = ("combination", "estimator")
"""Columns that hold the name of something."""
DIGITS = ("interval", "number", "plain", "short")
"""The kinds of cells that have a number of digits."""


@dataclass(frozen=True)
class Shown:
    """A column on the page.

    Parameters
    ----------
    name
        The schema's column.
    show
        The cell of a row; without it :func:`usual` chooses one.
    heading, meaning
        What stands over it, where that differs from the schema's.
    """

    name: str
    show: Show | None = None
    heading: Text = ""
    meaning: Text = ""


def select(names: str, **special: Show) -> tuple[Shown, ...]:
    """Return columns by their names, with their usual cells but those that are given one.

    ``name:kind`` has a cell of :mod:`klbench.report.cells`, ``name:kind3`` one with three digits.
    """
    return tuple(_shown(*entry.partition(":")[::2], special) for entry in names.split())


def _shown(name: str, kind: str, special: Mapping[str, Show]) -> Shown:
    """Return a column with the cell of a kind, or the special one of its name."""
    if not kind:
        return Shown(name, special.get(name))
    cell = getattr(cells, kind.rstrip("0123456789"))
    digits = kind[len(cell.__name__) :]
    if cell.__name__ not in DIGITS:
        return Shown(name, cell)
    return Shown(name, cell(int(digits)) if digits else cell())


def head(schema: Schema, name: str) -> Column:
    """Return the head of a schema's column: its heading and what it holds."""
    column = schema[name]
    return Column(column.heading or name, column.meaning, column.type in ("float", "int"))


def tables(
    caption: Text, schema: Schema, rows: Sequence[Row], shown: Sequence[Shown]
) -> list[Table]:
    """Return the table of rows; nothing where there are none."""
    return [table(str(caption), schema, rows, shown)] if rows else []


def folded(
    title: Text, schema: Schema, rows: Sequence[Row], shown: Sequence[Shown]
) -> list[Details]:
    """Return the table of rows folded away; nothing where there are none."""
    return [Details(title, [table(str(title), schema, rows, shown)])] if rows else []


def usual(schema: Schema, name: str) -> Show:
    """Return how a column is shown by its type, and with its uncertainty if the table has one."""
    others = schema.names
    if schema[name].type == "int":
        return cells.whole
    if schema[name].type != "float":
        return cells.name if name in NAMES else cells.text
    if f"{name}_se" in others:
        return cells.with_error
    return cells.interval() if f"{name}_low" in others else cells.number()


def table(
    caption: str,
    schema: Schema,
    rows: Sequence[Row],
    shown: Sequence[Shown],
    *,
    stacked: bool = False,
) -> Table:
    """Return a table with a heading and a cell for each column that is shown.

    Raises
    ------
    KeyError
        The schema has no such column.
    """
    columns = [
        Column(
            each.heading or schema[each.name].heading or each.name,
            each.meaning or schema[each.name].meaning,
            schema[each.name].type in ("float", "int"),
        )
        for each in shown
    ]
    shows = [(each.name, each.show or usual(schema, each.name)) for each in shown]
    body = [[show(row, name) for name, show in shows] for row in rows]
    return Table(caption, columns, body, stacked)
