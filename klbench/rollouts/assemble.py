"""From a chunk's columns to rollouts.

Columns of other lengths laid beside each other, and what cannot be left out and told.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from klbench.rollouts import engines, values
from klbench.rollouts.containers import Chunk
from klbench.rollouts.names import EXACT, LOG_PROBS
from klbench.rollouts.values import Ragged


@dataclass
class Odd:
    """A list of what is odd about the rows of a chunk.

    How many of each kind, and where the first is.
    """

    file: str
    where: np.ndarray
    said: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, kind: str, rows: Sequence[int] | np.ndarray, message: str) -> None:
        if len(rows):
            count, first = self.said.get(kind, (0, ""))
            place = f"{self.file} row {self.where[int(rows[0])] + 1:,}: {message}"
            self.said[kind] = count + len(rows), first or place

    def findings(self) -> tuple[str, ...]:
        return tuple(
            first + (f" (and {count - 1:,} more such rows)" if count > 1 else "")
            for count, first in self.said.values()
        )


def prompt_id(value: Any) -> int:
    """Return the number of a prompt: text, messages, token ids or a number."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    return int.from_bytes(
        hashlib.sha256(json.dumps(value, default=repr).encode()).digest()[:7], "little"
    )


def prompts(column: Any) -> np.ndarray:
    """Return the numbers of a column of prompts."""
    return np.array([prompt_id(each) for each in values.listed(column)], dtype=np.int64)


def scalars(column: Any, whole: bool = False) -> np.ndarray:
    """Return one number a row: a list's sum; NaN, or -1 for whole numbers, where there is none."""
    each = values.ragged(column)
    result = np.full(each.lengths.size, np.nan)
    some = each.lengths > 0
    if some.any():
        finite = np.where(np.isfinite(each.values), each.values, 0.0)
        if whole:
            result[some] = each.values[each.begins[some]]
        else:
            result[some] = np.add.reduceat(finite, each.begins[some])
    if not whole:
        return result
    return np.where(np.abs(result) < 2.0**53, result, -1.0).astype(np.int64)


def read_columns(
    chunk: Chunk, roles: Mapping[str, str], rejected: Mapping[str, str], wanted: Sequence[str]
) -> dict[str, Ragged]:
    """Return the numbers a token of these roles.

    Rows of chosen and rejected completions in turn, where there are such.
    """
    result = {}
    ids = _known_ids(chunk, roles)
    for role in wanted:
        if role not in roles:
            continue
        flags = role not in (*LOG_PROBS, *EXACT)
        each = _numbers(chunk.columns[roles[role]], ids if role in LOG_PROBS else None, flags)
        if rejected:
            other = chunk.columns[rejected.get(role, roles[role])]
            each = each.interleaved(_numbers(other, None, flags))
        result[role] = each
    if "tokens" not in roles and not rejected:
        named = _from_entries(chunk, roles, engines.ids)
        if named is not None:
            result["tokens"] = values.python(named)
    return result


def _numbers(column: Any, ids: Callable[[int], Sequence[int] | None] | None, flags: bool) -> Ragged:
    if ids is not None and isinstance(column, list) and any(_several(each) for each in column[:8]):
        return values.python(column, lambda value, row: engines.numbers(value, ids(row), flags))
    return values.ragged(column, flags)


def _several(value: Any) -> bool:
    """True where a rollout's entries hold more log-probabilities than the sampled token's."""
    return isinstance(value, list) and any(isinstance(e, dict) and len(e) > 1 for e in value[:8])


def _known_ids(
    chunk: Chunk, roles: Mapping[str, str]
) -> Callable[[int], Sequence[int] | None] | None:
    if "tokens" not in roles:
        return None
    column = chunk.columns[roles["tokens"]]

    def ids(row: int) -> Sequence[int] | None:
        value = column[row] if isinstance(column, list) else column[row].as_py()
        return value if isinstance(value, list) else None

    return ids


def _from_entries(
    chunk: Chunk, roles: Mapping[str, str], taken: Callable[[Any], Any]
) -> list[Any] | None:
    """Return what the engine's entries hold beside numbers, if it is anything."""
    column = next((chunk.columns[roles[r]] for r in ("sampler", "policy") if r in roles), None)
    if not isinstance(column, list) or not any(
        isinstance(each, list) and each and isinstance(each[0] or each[-1], list | dict)
        for each in column[:8]
    ):
        return None
    result = []
    for each in column:
        try:
            result.append(taken(each))
        except values.UNREADABLE:
            result.append([])
    return result


def texts(chunk: Chunk, roles: Mapping[str, str]) -> list[Any] | None:
    """Return the texts of each rollout's tokens, where the engine's entries hold them."""
    return _from_entries(chunk, roles, engines.texts)


def lengths(read: Mapping[str, Ragged], odd: Odd, roles: Mapping[str, str]) -> np.ndarray:
    """Return how many tokens each rollout has: of the log-probabilities, the most.

    0 where they do not fit each other.

    Engines score a prompt's tokens from the second on and put null first; where another column has
    one token less, that null is dropped. A column that is one token short otherwise is taken to
    lack the last.
    """
    names = [each for each in (*LOG_PROBS, *EXACT) if each in read]
    all_lengths = np.array([read[role].lengths for role in names])
    result = all_lengths.max(axis=0)
    for role, row in ((each, row) for each in names for row in list(read[each].wrong)[:1]):
        odd.add(
            role,
            list(read[role].wrong),
            f"{roles.get(role, role)} must be a list of numbers, got {read[role].wrong[row]}",
        )
    unread = np.array([np.isin(np.arange(result.size), list(read[role].wrong)) for role in names])
    differ = ((all_lengths != result) & ~unread).any(axis=0)
    if not differ.any():
        return result
    fits = np.ones(result.size, dtype=bool)
    for row in np.flatnonzero(differ).tolist():
        result[row], fits[row] = _fit(read, names, row)
    odd.add("lengths", np.flatnonzero(~fits), _unequal(read, names, int(np.argmin(fits)), roles))
    return result


def compact(read: dict[str, Ragged], sizes: np.ndarray) -> None:
    """Cut masks and ids to what a mask counts, in rows whose log-probabilities are of that alone.

    So verifiers has it (``v1/graph.py``): ``logprobs`` are as many as ``mask`` has ones.
    """
    mask = read.get("mask")
    if mask is None or not (mask.lengths > sizes).any():
        return
    rows = np.repeat(np.arange(sizes.size), mask.lengths)
    counts = mask.values > 0.0
    fits = (mask.lengths > sizes) & (np.bincount(rows[counts], minlength=sizes.size) == sizes)
    kept = counts | ~fits[rows]
    ids = read.get("tokens")
    if ids is not None and np.array_equal(ids.lengths, mask.lengths):
        read["tokens"] = _cut(ids, rows, kept)
    read["mask"] = _cut(mask, rows, kept)


def _cut(each: Ragged, rows: np.ndarray, kept: np.ndarray) -> Ragged:
    lengths = np.bincount(rows[kept], minlength=each.lengths.size)
    return Ragged(each.values[kept], lengths, each.wrong, each.nested)


def _unequal(
    read: Mapping[str, Ragged], names: Sequence[str], row: int, roles: Mapping[str, str]
) -> str:
    first, *others = [(roles.get(role, role), int(read[role].lengths[row])) for role in names]
    name, size = next((each for each in others if each[1] != first[1]), first)
    return f"{name} has {size} tokens, {first[0]} {first[1]}"


def _fit(read: Mapping[str, Ragged], names: Sequence[str], row: int) -> tuple[int, bool]:
    """Return the length that a row's columns can be laid out in, 0 for none, and whether nothing
    about it is odd.
    """
    sizes = {role: int(read[role].lengths[row]) for role in names if row not in read[role].wrong}
    most = max(sizes.values())
    mask, counted = read.get("mask"), -1
    if mask is not None and mask.lengths[row] == most:
        begin = mask.begins[row]
        counted = int((mask.values[begin : begin + most] > 0.0).sum())
    if all(size in (most, counted) for size in sizes.values()):
        return most, True
    if not all(size in (most, most - 1, counted) for size in sizes.values()):
        return 0, False
    longer = [role for role in names if sizes.get(role) == most]
    null_first = all(np.isnan(read[role].values[read[role].begins[row]]) for role in longer)
    return (most - 1, True) if null_first else (most, False)


def laid(
    each: Ragged, sizes: np.ndarray, fill: float, tail: bool, mask: Ragged | None = None
) -> np.ndarray:
    """Lay a column out in rows of these sizes.

    From the first token on, or where it is longer and ``tail``, from the last back, since prompts
    come first; one that has as many tokens as a mask of the row's size counts is laid where that
    counts.
    """
    if np.array_equal(each.lengths, sizes):
        return each.values
    kept = np.minimum(each.lengths, sizes)
    skip = np.where(each.lengths > sizes, each.lengths - sizes, 0) * tail
    result = np.full(int(sizes.sum()), fill)
    begins, to = each.begins + skip, np.cumsum(sizes) - sizes
    within = np.arange(int(kept.sum())) - np.repeat(np.cumsum(kept) - kept, kept)
    result[np.repeat(to, kept) + within] = each.values[np.repeat(begins, kept) + within]
    if mask is not None:
        for row in np.flatnonzero(
            (each.lengths < sizes - 1) & (mask.lengths == sizes) & (each.lengths > 0)
        ):
            own = slice(to[row], to[row] + sizes[row])
            counts = mask.values[mask.begins[row] : mask.begins[row] + sizes[row]] > 0.0
            if counts.sum() == each.lengths[row]:
                spread = np.full(sizes[row], fill)
                spread[counts] = each.values[
                    each.begins[row] : each.begins[row] + each.lengths[row]
                ]
                result[own] = spread
    return result
