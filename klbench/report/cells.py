"""Cells of tables: each function takes a row and the name of a column, or returns a function
that does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from klbench.report import numbers
from klbench.report.blocks import Cell, Text
from klbench.rows import Row

Show = Callable[[Row, str], Cell]
"""A row and the name of a column to the cell."""

BREAKS = re.compile(r"(?<=[_/])|(?<=\.)(?=[A-Za-z])")
ROUNDING = 1e-12
"""Smaller values are rounding of 0, and shown as 0."""


def text(row: Row, name: str) -> Cell:
    """Show a text as it is."""
    return Cell(str(row[name]))


def words(row: Row, name: str) -> Cell:
    """Show a text that may be long."""
    return Cell(str(row[name]), tone="words")


def code(name: str) -> Markup:
    """Return a name as the page writes it, which may break after an underscore, a slash or the
    dot before a function.
    """
    return Markup("<code>{}</code>").format(Markup("<wbr>").join(BREAKS.split(name)))


def codes(names: Sequence[str], glue: str = ", ") -> Markup:
    """Return names, one after the other, as the page writes them."""
    return Markup(glue).join(map(code, names))


def name(row: Mapping[str, Any], column: str) -> Cell:
    """Show the name of an estimator, a combination or the like."""
    return Cell(code(str(row[column])), tone="name")


def whole(row: Row, name: str) -> Cell:
    """Show a whole number."""
    value = row[name]
    return Cell(numbers.MISSING, math.nan) if math.isnan(value) else Cell(f"{value:,.0f}", value)


def number(digits: int = 3) -> Show:
    """Return a function that shows a number with ``digits`` digits."""

    def show(row: Row, name: str) -> Cell:
        value = 0.0 if abs(row[name]) < ROUNDING else row[name]
        return Cell(numbers.number(value, digits), value)

    return show


def plain(digits: int = 3) -> Show:
    """Return a function that shows a number with ``digits`` digits, however small."""
    return lambda row, name: Cell(numbers.number(row[name], digits), row[name])


def short(digits: int = 3) -> Show:
    """Return a function that shows a number with at most ``digits`` digits, without closing
    zeros.
    """
    return lambda row, name: Cell(numbers.short(row[name], digits), row[name])


def interval(digits: int = 2, least: float = -math.inf) -> Show:
    """Return what shows a value with the ends of its interval, ``_low`` and ``_high``, which
    does not pass ``least``.
    """
    return lambda row, name: Cell(numbers.interval(row, name, digits, least), row[name])


def with_error(row: Row, name: str) -> Cell:
    """Show a value with the half width of its 95 % interval, from its standard error ``_se``."""
    return Cell(numbers.with_interval(row[name], row[f"{name}_se"]), row[name])


def percent(row: Row, name: str) -> Cell:
    """Show a fraction in per cent."""
    return Cell(numbers.percent(row[name]), row[name])


def percent_interval(row: Row, name: str) -> Cell:
    """Show a fraction in per cent with the ends of its interval, ``_low`` and ``_high``."""
    return Cell(numbers.percent_interval(row, name), row[name])


def computed(function: Callable[[Row], Any]) -> Show:
    """Return what shows a cell that needs the whole row."""
    return lambda row, _: function(row)


def signed_percent(row: Row, name: str) -> Cell:
    """Show a difference in per cent with its sign."""
    return Cell(numbers.signed_percent(row[name]), row[name])


def flag(row: Row, name: str) -> Cell:
    """Show why a row is not to be trusted; nothing where its status is ok."""
    status = str(row[name])
    return Cell("", tone="") if status == "ok" else Cell(status, tone="doubtful")


def bar(length: float, text: Text, value: float, slot: int = 1) -> Cell:
    """Return a text and a bar after it, as long as that share of the longest."""
    drawn = Markup(
        '{} <svg viewBox="0 0 70 9" width="70" height="9" aria-hidden="true"><rect width="{:.1f}"'
        ' height="9" fill="var(--slot-{})"/></svg>'
    )
    return Cell(drawn.format(text, 70 * max(0.0, min(length, 1.0)), slot), value)
