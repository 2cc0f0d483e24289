"""Cells and columns that the tables of completions share."""

from __future__ import annotations

import math

from klbench.report.blocks import Cell, Column
from klbench.report.numbers import MISSING, number, percent, with_interval
from klbench.studies.lm.section_data import Data, Record, finite, percent_of

MAX_OPEN = 20
"""Tables with more rows are folded away."""


def number_cell(x: float, digits: int = 3) -> Cell:
    """Return a number."""
    return Cell(number(x, digits), float(x)) if finite(x) else Cell(MISSING if math.isnan(x) else "∞", x)


def interval_cell(x: float, se: float) -> Cell:
    """Return a number with its 95 % interval."""
    return Cell(with_interval(x, se) if finite(x) else MISSING, x)


def negative_cell(x: float) -> Cell:
    """Return a share of negative estimates."""
    return Cell(percent(x) if x else "0", x)


def share_cell(x: float) -> Cell:
    """Return a share as a percentage."""
    return Cell(percent_of(x), x)


def pair_column(data: Data) -> list[Column]:
    """Return the column of pairs, where there are several."""
    return [Column("Pair", "policy ‖ reference")] if len(data.pairs) > 1 else []


def pair_cell(data: Data, row: Record) -> list[Cell]:
    """Return the pair's cell, where there are several pairs."""
    return [Cell(data.labels.get(str(row["pair"]), str(row["pair"])))] if len(data.pairs) > 1 else []
