"""Cells and columns that the tables of completions share."""

from __future__ import annotations

import math

from klbench.report.blocks import Cell, Column
from klbench.report.numbers import MISSING, number, percent, with_interval
from klbench.report.sections._tokens_data import Data, Record, finite, percent_of

MAX_OPEN = 20
"""Tables with more rows are folded away."""


def number_cell(x: float, digits: int = 3) -> Cell:
    return Cell(number(x, digits), float(x)) if finite(x) else Cell(MISSING if math.isnan(x) else "∞", x)


def interval_cell(x: float, se: float) -> Cell:
    return Cell(with_interval(x, se) if finite(x) else MISSING, x)


def negative_cell(x: float) -> Cell:
    return Cell(percent(x) if x else "0", x)


def share_cell(x: float) -> Cell:
    return Cell(percent_of(x), x)


def pair_column(data: Data) -> list[Column]:
    return [Column("Pair", "policy ‖ reference")] if len(data.pairs) > 1 else []


def pair_cell(data: Data, row: Record) -> list[Cell]:
    return [Cell(data.labels.get(str(row["pair"]), str(row["pair"])))] if len(data.pairs) > 1 else []
