"""Tables of a page as data: a column of the schema, and how a row shows it, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from klbench.report import cells
from klbench.report.blocks import Column, Table, Text
from klbench.report.cells import Show
from klbench.schema import Row as Row
from klbench.schema import Schema as Schema

NAMES = ("combination", "estimator")
"""Columns that hold the name of something."""


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
    """Return columns by their names, all with their usual cells but those that are given one."""
    return tuple(Shown(name, special.get(name)) for name in names.split())


def usual(schema: Schema, name: str) -> Show:
    """Return how a column is shown by its type, and with its uncertainty if the table has one."""
    others = {column.name for column in schema.columns}
    if schema[name].type == "int":
        return cells.whole
    if schema[name].type != "float":
        return cells.name if name in NAMES else cells.text
    if f"{name}_se" in others:
        return cells.with_error
    return cells.interval() if f"{name}_low" in others else cells.number()


def table(caption: str, schema: Schema, rows: Sequence[Row], shown: Sequence[Shown]) -> Table:
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
    return Table(caption, columns, [[show(row, name) for name, show in shows] for row in rows])
