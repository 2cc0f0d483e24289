"""Tables of a page as data: a column of the schema, and how a row shows it, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from klbench.report.blocks import Column, Table, Text
from klbench.report.cells import Show
from klbench.schema import Row as Row
from klbench.schema import Schema as Schema


@dataclass(frozen=True)
class Shown:
    """A column on the page: the schema's, how it is shown, and what stands over it where that differs from the schema's."""

    name: str
    show: Show
    heading: Text = ""
    meaning: Text = ""


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
    return Table(caption, columns, [[each.show(row, each.name) for each in shown] for row in rows])
