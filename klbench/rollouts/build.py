"""A batch from a chunk: columns of other lengths side by side, which tokens count, and what is odd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from klbench.rollouts import assemble, names, values
from klbench.rollouts.batch import Batch
from klbench.rollouts.containers import Chunk
from klbench.rollouts.sources import Source


class Roles(Protocol):
    """The columns and their roles, as they are known before a chunk is read."""

    @property
    def columns(self) -> Mapping[str, str]:
        """The column of each role."""

    @property
    def rejected(self) -> Mapping[str, str]:
        """The second one, where rollouts come in pairs."""

    @property
    def layout(self) -> str:
        """The meaning of a row."""

    @property
    def text(self) -> bool:
        """True where texts of tokens are asked for."""


def batch(reading: Roles, source: Source, chunk: Chunk) -> Batch:
    """Return a chunk's rollouts."""
    roles, rejected = reading.columns, reading.rejected
    where = np.repeat(np.asarray(chunk.where, dtype=np.int64), 2 if rejected else 1)
    odd = assemble.Odd(source.name, where)
    read = assemble.read_columns(chunk, roles, rejected, names.PER_TOKEN)
    sizes = assemble.lengths(read, odd, roles)
    assemble.compact(read, sizes)
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
        np.concatenate([[0], np.cumsum(sizes)]),
        columns,
        tokens,
        _texts(reading, chunk, sizes),
        mask,
        prompt,
        row("reward"),
        step,
        row("version", whole=True),
        where,
        source.name,
        (*chunk.findings, *odd.findings()),
    )


def _mask(
    reading: Roles,
    chunk: Chunk,
    read: Mapping[str, values.Ragged],
    sizes: np.ndarray,
    columns: Mapping[str, np.ndarray],
    odd: assemble.Odd,
) -> np.ndarray:
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
    each: values.Ragged,
    sizes: np.ndarray,
    mask: np.ndarray,
    odd: assemble.Odd,
    roles: Mapping[str, str],
) -> np.ndarray:
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
    each: values.Ragged,
    role: str,
    reading: Roles,
    sizes: np.ndarray,
    known: np.ndarray,
    odd: assemble.Odd,
) -> np.ndarray:
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


def _texts(reading: Roles, chunk: Chunk, sizes: np.ndarray) -> list[str] | None:
    found = assemble.texts(chunk, reading.columns) if reading.text else None
    if found is None:
        return None
    return [
        text
        for words, size in zip(found, sizes.tolist(), strict=True)
        for text in [*(words or [])[:size], *[""] * (size - len(words or []))]
    ]
