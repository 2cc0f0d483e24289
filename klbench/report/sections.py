"""The part of the page that belongs to a run's study, and the tables that it may use."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from klbench.report.blocks import Block, Heading, Lead, Maker, Paragraph, Section, Tables
from klbench.report.generic import generic
from klbench.report.numbers import listing
from klbench.schema import Schema, by_table

STUDIES = "klbench.studies"
"""The package of the studies, found by name as plugins are: nothing here is imported from above."""


class Declared(Protocol):
    """The part of a study's declaration, :class:`klbench.study.Study`, that a page needs."""

    @property
    def name(self) -> str:
        """The study's name today."""

    @property
    def tables(self) -> Sequence[Schema]:
        """The tables that it declares."""

    @property
    def section(self) -> Section | None:
        """The study's part of the page."""

    def completed(self, tables: Tables, version: int) -> Tables:
        """Return tables of an earlier schema version as they would be written today."""


def study(name: str) -> Declared | None:
    """Return the study of that name, or of that name in an earlier version.

    None where it is not known here.
    """
    studies = importlib.import_module(STUDIES)
    found: Declared | None = studies.get(name) if studies.known(name) else None
    return found


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
    others: Tables
    warnings: Sequence[str]

    @property
    def shown(self) -> bool:
        """Return whether the section has the table that it needs."""
        return self.section is not None and self.section.main.table in self.tables

    @cached_property
    def lead(self) -> Lead | None:
        """The opening of the page; None if there is nothing to say."""
        return (
            self.section.lead(self.tables)
            if self.shown and self.section and self.section.lead
            else None
        )

    def opening(self) -> Iterator[Block | Maker]:
        """Yield what is wrong with the tables, and what the section says at the top of the page."""
        for text in self.warnings:
            yield Paragraph(text, "warning")
        yield lambda: self.lead

    def build(self) -> Iterator[Block | Maker]:
        """Yield the section's blocks under its heading."""
        if self.shown and self.section is not None and (built := self.section.build(self.tables)):
            yield Heading(self.section.title, 2, self.section.main.table)
            yield from built

    def rest(self) -> Iterator[Block]:
        """Yield the tables that no section shows, as they are."""
        shown = self.others if self.shown else {**self.others, **self.tables}
        for name, table in shown.items():
            yield from generic(name, table)


def part(name: str, tables: Tables) -> Part:
    """Return the part of a page that one study has.

    Its section, given those of the tables that are as declared.
    """
    known = study(name)
    section, declared = (known.section, by_table(known.tables)) if known else (None, {})
    if section is None:
        unknown = f"The study {name} is not known here: its tables are shown as they are."
        return Part(name, None, {}, tables, [unknown] if name and not known else [])
    if not declared:
        return Part(name, section, tables, {}, [])
    missing = {
        key: declared[key].missing(table) if key in declared else []
        for key, table in tables.items()
    }
    warnings = [
        f"Table {key} lacks the {'column' if len(names) == 1 else 'columns'} {listing(names)}. What"
        " this page makes of the table is left out; the table itself stands below."
        for key, names in missing.items()
        if names
    ]
    absent = [
        schema.table
        for schema in declared.values()
        if schema.table not in tables and not schema.optional
    ]
    warnings += [
        f"The run has no table {key}. What this page makes of it is left out." for key in absent
    ]
    good = {key: table for key, table in tables.items() if key in declared and not missing[key]}
    return Part(
        name,
        section,
        good,
        {key: table for key, table in tables.items() if key not in good},
        warnings,
    )
