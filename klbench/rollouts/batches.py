"""Recorded rollouts of any trainer and engine, in batches of ragged arrays.

What can be read as numbers is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from klbench.rollouts import advice, build, long, names, values
from klbench.rollouts.batch import Batch
from klbench.rollouts.containers import FEW, Chunk
from klbench.rollouts.sources import Source, sources
from klbench.types import ConfigError

__all__ = ["Batch", "Reading", "read"]


@dataclass(frozen=True)
class Reading:
    """A file of rollouts, or several, after a look at the first rows.

    Pickled, it opens the files anew.

    Parameters
    ----------
    files
        Their names.
    columns
        The name in the file of each role.
    layout
        ``lists`` (a row is a rollout), ``tokens`` (a row is a token) or ``sums`` (a row is a
        rollout of one number, which is read as a single token).
    notes, findings
        What was chosen where more than one reading would do; what is odd.
    rejected
        The name of the second column of a role where rollouts come in pairs.
    """

    files: tuple[str, ...]
    columns: Mapping[str, str]
    layout: str
    notes: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    rejected: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[Source, ...] = field(default=(), repr=False)
    text: bool = False

    @property
    def paired(self) -> bool:
        """True where rollouts come in pairs, the chosen one first and the rejected one next
        (``chosen_*``, ``rejected_*``).
        """
        return bool(self.rejected)

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(path.stat().st_size for source in self.sources for path in source.paths)

    def parts(self) -> list[Reading]:
        """Return a reading of each file by itself, for as many processes as one likes."""
        return [
            replace(self, files=(file,), sources=(source,))
            for file, source in zip(self.files, self.sources, strict=True)
        ]

    def batches(self, tokens: int = 2**20, start: int = 0) -> Iterator[Batch]:
        """Return all rollouts in order, about so many tokens at a time, from a row of the first
        file on.

        Raises
        ------
        ConfigError
            A file cannot be read to its end, or lacks the columns of the first.
        """
        for source in self.sources:
            reading = self._of(source)
            wanted = {*reading.columns.values(), *reading.rejected.values()}
            chunks = source.container.chunks(wanted, tokens, start)
            start = 0
            if self.layout == "tokens":
                chunks = long.grouped(chunks, reading.columns)
            for chunk in chunks:
                yield build.batch(reading, source, chunk)

    def _of(self, source: Source) -> Reading:
        """Return this reading with the columns that a later file has."""
        missing = [name for name in self.columns.values() if name not in source.container.names]
        if not missing:
            return self
        kept = {role: name for role, name in self.columns.items() if name not in missing}
        if sum(role in kept for role in names.LOG_PROBS) < _least(self.rejected):
            raise ConfigError(
                f"{source.name}: no column {missing[0]!r}, which {self.files[0]} has "
                f"(columns are {names.listed(source.container.names)})"
            )
        return replace(self, columns=kept)


def _least(rejected: Mapping[str, str]) -> int:
    return 1 if rejected else 2


def read(
    source: pd.DataFrame | str | Path | Sequence[str | Path],
    mapping: Mapping[str, str] | None = None,
    text: bool = False,
) -> Reading:
    """Return what rollouts hold, after a look at the first of them.

    Raises
    ------
    ConfigError
        No two columns of numbers can be had, in one line: the file, what came and what is allowed.
    """
    given = tuple(sources(source))
    first = given[0]
    look, columns = _looked_at(first, mapping or {})
    numbers = {
        role: values.ragged(look.columns[columns.roles[role]], flags=False)
        for role in names.LOG_PROBS
        if role in columns.roles
    }
    nested = any(each.nested for each in numbers.values())
    layout = "lists" if nested else long.layout(look, columns.roles)
    notes = [*columns.notes, *_notes(first)]
    if layout == "sums" and not columns.rejected:
        notes.append(long.sums(first.name, first.container.names, look, columns.roles))
    roles = {
        role: name
        for role, name in columns.roles.items()
        if layout == "tokens" or role not in names.ONLY_LONG
    }
    return Reading(
        tuple(each.name for each in given),
        roles,
        layout,
        tuple(notes),
        columns.findings,
        columns.rejected,
        given,
        text,
    )


def _looked_at(source: Source, mapping: Mapping[str, str]) -> tuple[Chunk, names.Columns]:
    """Return the first rows of a file and its columns.

    One whose name promises numbers and which holds none is passed over.

    Raises
    ------
    ConfigError
        Fewer than two columns of log-probabilities are left; or one that a user named holds none.
    """
    available = list(source.container.names)
    chosen = names.checked(mapping, available, source.name)
    findings: list[str] = []
    while True:
        columns = names.found(available, chosen)
        if sum(role in columns.roles for role in names.LOG_PROBS) < _least(columns.rejected):
            raise ConfigError(advice.missing(source, columns, findings))
        wanted = {*columns.roles.values(), *columns.rejected.values()}
        look = next(source.container.chunks(wanted, FEW))
        for role in names.PER_TOKEN:
            if role not in columns.roles:
                continue
            flags = role not in (*names.LOG_PROBS, *names.EXACT)
            each = values.ragged(look.columns[columns.roles[role]], flags)
            if not each.wrong or len(each.wrong) < len(look):
                continue
            row, came = next(iter(each.wrong.items()))
            said = (
                f"{source.name} row {look.where[row] + 1:,}: {columns.roles[role]} must be a list"
                f" of numbers, got {came}"
            )
            if role in chosen:
                raise ConfigError(said)
            available.remove(columns.roles[role])
            if role not in ("tokens", "position"):
                findings.append(said)
            break
        else:
            return look, replace(columns, findings=(*columns.findings, *findings))


def _notes(source: Source) -> Iterator[str]:
    """Say what a file says of how its log-probabilities were made: vLLM's are raw or processed."""
    for name in source.container.names:
        if name.rsplit(".", 1)[-1] == "logprobs_mode":
            chunk: Any = next(source.container.chunks({name}, FEW))
            said = sorted({str(each) for each in values.listed(chunk.columns[name])})
            yield f"{name} is {', '.join(said)}"
