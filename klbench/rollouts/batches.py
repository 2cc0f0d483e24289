"""Recorded rollouts of any trainer and engine, in batches of ragged arrays: what can be read as numbers is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from klbench.rollouts import advice, assemble, long, names, values
from klbench.rollouts.batch import Batch
from klbench.rollouts.containers import FEW, Chunk
from klbench.rollouts.sources import Source, sources
from klbench.types import ConfigError

__all__ = ["Batch", "Reading", "read"]


@dataclass(frozen=True)
class Reading:
    """A file of rollouts, or several, after a look at the first rows. Pickled, it opens the files anew.

    Parameters
    ----------
    files
        Their names.
    columns
        The name in the file of each role.
    layout
        ``lists`` (a row is a rollout), ``tokens`` (a row is a token) or ``sums`` (a row is a rollout of one number, which is
        read as a single token).
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
        """True where rollouts come in pairs, the chosen one first and the rejected one next (``chosen_*``, ``rejected_*``)."""
        return bool(self.rejected)

    def parts(self) -> list[Reading]:
        """Return a reading of each file by itself, for as many processes as one likes."""
        return [
            replace(self, files=(file,), sources=(source,))
            for file, source in zip(self.files, self.sources, strict=True)
        ]

    def batches(self, tokens: int = 2**20, start: int = 0) -> Iterator[Batch]:
        """Return all rollouts in order, about so many tokens at a time, from a row of the first file on.

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
                yield _batch(reading, source, chunk)

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


def _batch(reading: Reading, source: Source, chunk: Chunk) -> Batch:
    roles, rejected = reading.columns, reading.rejected
    where = np.repeat(np.asarray(chunk.where, dtype=np.int64), 2 if rejected else 1)
    odd = assemble.Odd(source.name, where)
    read = assemble.read_columns(chunk, roles, rejected, names.PER_TOKEN)
    sizes = assemble.lengths(read, odd, roles)
    given = read.get("mask")
    columns = {
        role: assemble.laid(read[role], sizes, np.nan, tail=True, mask=given)
        for role in (*names.LOG_PROBS, *names.EXACT)
        if role in read
    }
    mask = _mask(reading, chunk, read, sizes, columns, odd)
    tokens = _ids(read["tokens"], sizes, mask, odd, roles) if "tokens" in read else None

    def row(role: str, whole: bool = False) -> np.ndarray | None:
        if role not in roles:
            return None
        result = assemble.scalars(chunk.columns[roles[role]], whole)
        if not rejected:
            return result
        other = rejected.get(role, roles[role])
        return np.stack([result, assemble.scalars(chunk.columns[other], whole)], axis=1).ravel()

    prompt = assemble.prompts(chunk.columns[roles["prompt"]]) if "prompt" in roles else None
    if prompt is not None and rejected:
        prompt = np.repeat(prompt, 2)
    step = row("step", whole=True)
    if step is None and source.step is not None:
        step = np.full(where.size, source.step)
    return Batch(
        np.concatenate([[0], np.cumsum(sizes)]), columns, tokens, _texts(reading, chunk, sizes), mask, prompt,
        row("reward"), step, row("version", whole=True), where, source.name, (*chunk.findings, *odd.findings()),
    )  # fmt: skip


def _mask(
    reading: Reading, chunk: Chunk, read: Mapping[str, values.Ragged], sizes: np.ndarray,
    columns: Mapping[str, np.ndarray], odd: assemble.Odd,
) -> np.ndarray:  # fmt: skip
    """Return which tokens count: those of the mask, or of the length, that have a log-probability."""
    mask = np.zeros(int(sizes.sum()), dtype=bool)
    for column in columns.values():
        mask |= ~np.isnan(column)
    for role in ("mask", "tool_mask"):
        if role in read:
            mask &= _given(read[role], role, reading, sizes, mask, odd)
    if not {"mask", "tool_mask"} & set(read):
        odd.add("hole", _holes(mask, sizes), "a token inside has no log-probability")
    if "mask" not in read and "length" in reading.columns and reading.layout == "lists":
        most = assemble.scalars(chunk.columns[reading.columns["length"]])
        place = np.arange(mask.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        mask &= ~(place >= np.repeat(most, sizes))
    if "rollout_mask" in reading.columns:
        counts = assemble.scalars(chunk.columns[reading.columns["rollout_mask"]])
        mask &= np.repeat(counts != 0.0, sizes)
    return mask


def _ids(
    each: values.Ragged, sizes: np.ndarray, mask: np.ndarray, odd: assemble.Odd, roles: Mapping[str, str]
) -> np.ndarray:  # fmt: skip
    """Return token ids, -1 for what is none."""
    ids = assemble.laid(each, sizes, np.nan, tail=True)
    whole = np.isfinite(ids) & (np.abs(ids) < 2.0**53)
    whole[whole] = ids[whole] == np.floor(ids[whole])
    strange = np.flatnonzero(~whole & np.isfinite(ids) & mask)
    if strange.size:
        rows = np.repeat(np.arange(sizes.size), sizes)[strange]
        at, row = int(strange[0]), int(rows[0])
        place = at - int(sizes[:row].sum()) + 1
        odd.add(
            "ids",
            np.unique(rows),
            f"{roles['tokens']} at token {place} is {ids[at]:g}, a token id is a whole number",
        )
    return np.where(whole, np.where(whole, ids, -1.0), -1.0).astype(np.int64)


def _given(
    each: values.Ragged, role: str, reading: Reading, sizes: np.ndarray, known: np.ndarray, odd: assemble.Odd
) -> np.ndarray:  # fmt: skip
    """Return which tokens a mask counts."""
    name, short = (
        reading.columns[role],
        np.flatnonzero((each.lengths < sizes) & (each.lengths != 1)),
    )
    if short.size:
        at = int(short[0])
        odd.add(
            role,
            short,
            f"{name} has {each.lengths[at]} tokens, {next(iter(reading.columns.values()))} {sizes[at]}",
        )
    if each.nested or reading.layout == "sums":
        values_of = assemble.laid(each, sizes, 0.0, tail=True)
    else:
        values_of = np.repeat(_one(each), sizes)
    strange = np.flatnonzero(~np.isin(values_of, (0.0, 1.0)))
    rows = np.repeat(np.arange(sizes.size), sizes)
    if strange.size:
        odd.add(
            f"{role} values",
            np.unique(rows[strange]),
            f"{name} must be 0 or 1, got {values_of[strange[0]]:g}",
        )
    counts = values_of > 0.0
    odd.add(
        "unknown",
        np.unique(rows[counts & ~known]),
        f"{name} counts a token that has no log-probability",
    )
    return counts


def _holes(mask: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the rows in which a token is missing before another that is there."""
    rows = np.repeat(np.arange(sizes.size), sizes)
    falls = np.flatnonzero(mask[1:] & ~mask[:-1] & (rows[1:] == rows[:-1]))
    return np.unique(rows[falls])


def _one(each: values.Ragged) -> np.ndarray:
    result = np.zeros(each.lengths.size)
    result[each.lengths == 1] = each.values
    return result


def _texts(reading: Reading, chunk: Chunk, sizes: np.ndarray) -> list[str] | None:
    found = assemble.texts(chunk, reading.columns) if reading.text else None
    if found is None:
        return None
    return [
        text
        for words, size in zip(found, sizes.tolist(), strict=True)
        for text in [*(words or [])[:size], *[""] * (size - len(words or []))]
    ]


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
        role: values.ragged(look.columns[columns.roles[role]])
        for role in names.LOG_PROBS
        if role in columns.roles
    }
    nested = any(each.nested for each in numbers.values())
    layout = "lists" if nested else long.layout(look, columns.roles)
    roles = {
        role: name
        for role, name in columns.roles.items()
        if layout == "tokens" or role not in names.ONLY_LONG
    }
    return Reading(
        tuple(each.name for each in given), roles, layout, (*columns.notes, *_notes(first)), columns.findings,
        columns.rejected, given, text,
    )  # fmt: skip


def _looked_at(source: Source, mapping: Mapping[str, str]) -> tuple[Chunk, names.Columns]:
    """Return the first rows of a file and its columns; one whose name promises numbers and which holds none is passed over.

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
            each = (
                values.ragged(look.columns[columns.roles[role]]) if role in columns.roles else None
            )
            if each is None or not each.wrong or len(each.wrong) < len(look):
                continue
            row, came = next(iter(each.wrong.items()))
            said = f"{source.name} row {look.where[row] + 1:,}: {columns.roles[role]} must be a list of numbers, got {came}"
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
