"""The tables of a page, run by run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import pandas as pd

from klbench.report.blocks import Figure, LegendEntry, Panel, Tables, Text
from klbench.rows import Row, Rows
from klbench.schema import MISSING, Schema


@dataclass(frozen=True, eq=False)
class RunTables:
    """One run: its label, empty where it is the only one on the page, and its tables."""

    label: str
    tables: Tables

    def rows(self, schema: Schema) -> Rows:
        """Return a table's rows; none where the run has no such table."""
        return schema.rows(self.tables[schema.table]) if schema.table in self.tables else []

    def keyed(self, schema: Schema, column: str, keys: Sequence[str]) -> dict[str, Row]:
        """Return the one row of each key in a column.

        All that it holds is missing where the table has no such row.
        """
        missing = {key: {each.name: MISSING[each.type] for each in schema.columns} for key in keys}
        return missing | {row[column]: row for row in self.rows(schema)}

    def frame(self, schema: Schema) -> pd.DataFrame:
        """Return a table; an empty one with all its columns where the run has none."""
        found = self.tables.get(schema.table)
        return schema.frame([]) if found is None else found

    @property
    def stem(self) -> str:
        """The end of the names of this run's figures: empty where it is the only run."""
        return "-" + re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-") if self.label else ""

    def figure(
        self,
        name: str,
        title: str,
        caption: Text,
        panels: Sequence[Panel],
        legend: Sequence[LegendEntry] | Mapping[Any, LegendEntry] = (),
    ) -> Figure:
        """Return a figure of this run; the end of its name tells the runs of a page apart."""
        entries = legend.values() if isinstance(legend, Mapping) else legend
        return Figure(f"{name}{self.stem}", title, caption, panels, list(entries))


def stored(schema: Schema) -> cached_property[Rows]:
    """Return the property of a run that holds a table's rows."""
    return cached_property(lambda run: run.rows(schema))


@dataclass(frozen=True, eq=False)
class TrainingRun(RunTables):
    """One run that trains: every evaluation is a row of ``training``."""

    training_schema: ClassVar[Schema]

    @cached_property
    def training(self) -> Rows:
        """The evaluations of all that was trained."""
        return self.rows(self.training_schema)

    @cached_property
    def updates(self) -> int:
        """The last step; 0 where there was none."""
        return max((int(row["step"]) for row in self.training), default=0)

    @cached_property
    def diverged(self) -> list[tuple[str, int, str]]:
        """Combination, seed and status of each run that was stopped: what it diverged on."""
        return stopped(self.training, "combination", "seed")


R = TypeVar("R", bound=RunTables)


def by_run(kind: type[R], tables: Tables, main: Schema) -> Sequence[R]:
    """Return the tables of each run that has the main one, as a page over several runs labels
    them.
    """
    if main.table not in tables:
        return []
    found = tables[main.table]
    if "run" not in found:
        return [kind("", tables)]
    return [
        kind(
            str(label),
            {
                name: table[table["run"] == label]
                for name, table in tables.items()
                if "run" in table
            },
        )
        for label in found["run"].unique()
    ]


def stopped(training: Iterable[Row], *keys: str) -> list[tuple[Any, ...]]:
    """Return the keys of each run that was stopped, and its status: what it diverged on."""
    found: dict[tuple[Any, ...], str] = {}
    for row in training:
        if row["status"] not in ("ok", ""):
            found.setdefault(tuple(row[key] for key in keys), row["status"])
    return [(*key, status) for key, status in found.items()]
