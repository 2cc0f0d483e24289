"""Columns and tables that several studies have, and the reader of a ``columns.yaml``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from klbench.schema import Column, Schema, band, interval, with_error

SPREADS: dict[str, Callable[[Column], tuple[Column, ...]]] = {
    "error": with_error,
    "interval": interval,
    "seeds": partial(interval, seeds=True),
    "band": band,
}
SHARED: dict[str, tuple[Column, ...]] = {}
"""The columns that a word in capitals stands for."""


def declared(file: str, **migrate: Callable[[Any, int], Any]) -> tuple[Schema, ...]:
    """Return the tables that the ``columns.yaml`` beside a file declares, in its order.

    A column is a mapping of the fields of :class:`klbench.schema.Column`. With ``with`` it comes
    with others: its standard error, the ends of an interval, those and a number of seeds, or a
    band. A word in capitals stands for columns of this module. Lists within lists are one list.
    A table is named as its key, or by ``table``.

    Parameters
    ----------
    file
        The ``__file__`` of the study's ``columns.py``.
    migrate
        By key, what makes the table of one of an earlier version.
    """
    return tuple(
        Schema(
            table.get("table", name),
            table["rows"],
            tuple(_columns(table["columns"])),
            table.get("optional", False),
            migrate.get(name),
        )
        for name, table in _read(file).items()
        if isinstance(table, dict)
    )


def _read(file: str) -> dict[str, Any]:
    """Return what the ``columns.yaml`` beside a file holds: tables, and lists of columns."""
    text = Path(file).with_suffix(".yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return found


def _columns(entry: Any) -> Iterator[Column]:
    """Yield the columns that an entry of a list stands for."""
    if isinstance(entry, str):
        yield from SHARED[entry]
    elif isinstance(entry, list):
        yield from chain.from_iterable(map(_columns, entry))
    else:
        column = Column(**{key: value for key, value in entry.items() if key != "with"})
        yield from SPREADS[entry["with"]](column) if "with" in entry else (column,)


COMBINATION, TASK, MEASURED = (
    tuple(_columns(columns)) for columns in _read(__file__).values() if isinstance(columns, list)
)
"""A combination, a pair whose gradients are measured, and the one's gradient on the other."""
COMBINATIONS, ESTIMATORS = declared(__file__)
SHARED |= {
    "COMBINATION": COMBINATION,
    "PARTS": COMBINATION[1:],
    "TASK": TASK,
    "MEASURED": MEASURED,
    "ESTIMATORS": ESTIMATORS.columns,
    "DESCRIBED": COMBINATIONS.columns[
        : 1 + COMBINATIONS.columns.index(COMBINATIONS["gradient_of"])
    ],
}
