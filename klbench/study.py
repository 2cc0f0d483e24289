"""A study is declared lightly.

Its name, and where its options, its run, its tables and its section are to be found.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from klbench.rows import Rows
from klbench.schema import VERSION, Tables, by_table, check, records
from klbench.types import Options

if TYPE_CHECKING:
    import pandas as pd

    from klbench.context import Context
    from klbench.report.blocks import Section
    from klbench.schema import Schema

Place = str
"""``module:name``; a module that starts with a dot is one of the study's own folder."""


@dataclass(frozen=True)
class Summary:
    """A small table for the terminal.

    Parameters
    ----------
    columns
        Headings; those that start with ``>`` stand to the right, as numbers do.
    rows
        As many texts each.
    notes
        Lines below it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        title: str,
        columns: Sequence[str],
        cells: Sequence[str],
        rows: pd.DataFrame | Rows,
        notes: Sequence[str] = (),
    ) -> Summary:
        """Return the summary with a line for each row of a table.

        ``cells`` are the texts of a line, in which ``{kl:.3g}`` is the row's ``kl``, and ``{flag}``
        its status where that is not ok.
        """
        found = rows if isinstance(rows, list) else records(rows)
        lines = [
            [text.format_map(row | {"flag": flag if flag != "ok" else ""}) for text in cells]
            for row in found
            for flag in [row.get("status")]
        ]
        return cls(title, columns, lines, notes)


@dataclass(frozen=True)
class Study:
    """A kind of experiment. What it needs is imported when it is first asked for.

    Parameters
    ----------
    name, summary
        Its name, and one line on it.
    home
        The package of its folder, ``__name__`` there.
    options_at
        The typed node of its own settings.
    run_at
        ``run(options, context)`` returns tables by name; on Ctrl-C those that were finished, with
        ``context.interrupted`` set.
    summarize_at
        Tables to the compact ones that the terminal shows when it is done.
    tables_at
        The schemas of its tables, which are checked before they are written; empty: they are not
        checked.
    complete_at
        ``complete(tables)`` returns the tables of a run of an earlier version with those that it
        did not have yet, which follow from the others.
    section_at
        Its part of the page; empty: its tables are shown as they are.
    devices
        Where it can run.
    shares
        Whether several processes (see :mod:`klbench.processes`) can run it together.
    aliases
        What earlier versions called it, so that their runs go on.
    """

    name: str
    summary: str
    home: str
    options_at: Place = ".run:Options"
    run_at: Place = ".run:run"
    summarize_at: Place = ""
    tables_at: Place = ".columns:TABLES"
    complete_at: Place = ""
    section_at: Place = ".section:SECTION"
    devices: tuple[str, ...] = ("cpu",)
    shares: bool = False
    aliases: tuple[str, ...] = ()

    def _at(self, place: Place) -> Any:
        module, _, name = place.partition(":")
        return getattr(importlib.import_module(module, self.home), name)

    @cached_property
    def options(self) -> type[Options]:
        """The class of its settings."""
        found: type[Options] = self._at(self.options_at)
        return found

    def run(self, options: Any, context: Context) -> Tables:
        """Return the tables by name, as they are declared.

        Raises
        ------
        klbench.schema.SchemaError
            A table is not as declared.
        """
        tables: Tables = self._at(self.run_at)(options, context)
        if self.tables:
            check(self.tables, tables)
        return tables

    @cached_property
    def summarize(self) -> Callable[[Tables], Sequence[Summary]] | None:
        """The function that makes the terminal's tables; None where it has none."""
        return self._at(self.summarize_at) if self.summarize_at else None

    @cached_property
    def tables(self) -> Sequence[Schema]:
        """The schemas of its tables; none where they are not declared."""
        return self._at(self.tables_at) if self.tables_at else ()

    def completed(self, tables: Tables, version: int) -> Tables:
        """Return tables of an earlier schema version as they would be written today."""
        declared = by_table(self.tables)
        found = {
            name: declared[name].migrated(table, version) if name in declared else table
            for name, table in tables.items()
        }
        if version < VERSION and self.complete_at:
            found = {**self._at(self.complete_at)(found)}
        return found

    @cached_property
    def section(self) -> Section | None:
        """The study's part of the page; None if it has none."""
        return self._at(self.section_at) if self.section_at else None
