"""The part of the page that belongs to a run's study, and the tables that it may use."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from klbench.report.blocks import Block, Heading, Lead, Paragraph, Section, Tables
from klbench.report.generic import generic
from klbench.report.numbers import listing
from klbench.schema import Schema, by_table
from klbench.types import ConfigError

if TYPE_CHECKING:
    import pandas as pd

STUDIES = "klbench.studies"
"""Where studies are found, by name as plugins are: nothing here is imported from above."""


def study_name(name: str) -> str:
    """Return the name that a study has today; the same one where it is not known here."""
    try:
        return str(importlib.import_module(STUDIES).get(name).name)
    except ConfigError:
        return name


def schemas(study: str) -> Sequence[Schema]:
    """Return the tables that a study declares; none for a study that is not known here."""
    try:
        found: Sequence[Schema] = importlib.import_module(STUDIES).get(study).tables
    except ConfigError:
        return ()
    return found


def _section(study: str) -> Section | None:
    try:
        section: Section | None = importlib.import_module(STUDIES).get(study).section
    except ConfigError:
        return None
    return section


@dataclass(frozen=True)
class Part:
    """The tables of one study's runs on a page, and what is wrong with them.

    Parameters
    ----------
    study
        Its name, empty where a run names none.
    section
        Its section; None where it has none.
    tables
        The tables that are as declared: what the section is given.
    others
        The tables that are not.
    warnings
        What is wrong, in words.
    """

    study: str
    section: Section | None
    tables: Tables
    others: Mapping[str, pd.DataFrame]
    warnings: Sequence[str]

    @property
    def shown(self) -> bool:
        """Whether the section has what it needs."""
        return self.section is not None and self.section.main.table in self.tables

    @cached_property
    def lead(self) -> Lead | None:
        """What the page opens with; None where there is nothing to say."""
        return self.section.lead(self.tables) if self.shown and self.section and self.section.lead else None

    def answer(self) -> Iterator[Block]:
        """Yield what is wrong with the tables, and what the section says at the top of the page."""
        for text in self.warnings:
            yield Paragraph(text, "warning")
        if self.lead is not None:
            yield Paragraph(self.lead.verdict, "lead")
            if self.lead.figure is not None:
                yield self.lead.figure
            for text in self.lead.more:
                yield Paragraph(text)
        elif self.shown and self.section is not None and self.section.answer:
            yield from self.section.answer(self.tables)

    def build(self) -> Iterator[Block]:
        """Yield the section's blocks under its heading."""
        if self.shown and self.section is not None and (built := self.section.build(self.tables)):
            yield Heading(self.section.title, 2, self.section.main.table)
            yield from built

    def rest(self) -> Iterator[Block]:
        """Yield the tables that no section shows, as they are."""
        shown = self.others if self.shown else {**self.others, **self.tables}
        for name, table in shown.items():
            yield from generic(name, table)


def part(study: str, tables: Tables) -> Part:
    """Return the part of a page that one study has: its section, given those of the tables that are as declared."""
    section, declared = _section(study), by_table(schemas(study))
    if section is None:
        unknown = f"The study {study} is not known here: its tables are shown as they are."
        return Part(study, None, {}, tables, [unknown] if study and not declared else [])
    if not declared:
        return Part(study, section, tables, {}, [])
    missing = {name: declared[name].missing(table) if name in declared else [] for name, table in tables.items()}
    warnings = [
        f"Table {name} lacks the {'column' if len(names) == 1 else 'columns'} {listing(names)}. What this page makes of the "
        "table is left out; the table itself stands below."
        for name, names in missing.items()
        if names
    ]
    absent = [schema.table for schema in declared.values() if schema.table not in tables and not schema.optional]
    warnings += [f"The run has no table {name}. What this page makes of it is left out." for name in absent]
    good = {name: table for name, table in tables.items() if name in declared and not missing[name]}
    return Part(study, section, good, {name: table for name, table in tables.items() if name not in good}, warnings)
