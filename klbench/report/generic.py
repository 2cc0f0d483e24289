"""A table that no section knows, shown as it is."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from klbench.report.blocks import Block, Cell, Column, Heading, Paragraph, Table
from klbench.report.numbers import MISSING, count, number

MAX_ROWS = 300


def _cell(value: Any) -> Cell:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Cell(MISSING, math.nan)
    if isinstance(value, bool):
        return Cell("yes" if value else "no", float(value))
    if isinstance(value, int):
        return Cell(f"{value:,}", float(value))
    return Cell(number(value, 4), value) if isinstance(value, float) else Cell(str(value))


def generic(name: str, table: pd.DataFrame) -> list[Block]:
    """A heading, a sortable table of the first rows, and a word on those left out."""
    columns = [
        Column(str(column), f"column {column} of tables/{name}", is_numeric_dtype(table[column]))
        for column in table
    ]
    rows = [
        [_cell(value) for value in row]
        for row in table.head(MAX_ROWS).astype(object).itertuples(index=False, name=None)
    ]
    blocks: list[Block] = [
        Heading(name),
        Table(f"Table {name}, {count(len(table), 'row')}", columns, rows),
    ]
    if len(table) > MAX_ROWS:
        blocks.append(
            Paragraph(
                f"The first {MAX_ROWS} of {len(table):,} rows; all of them are in the table's"
                " file.",
                "note",
            )
        )
    return blocks
