"""Recorded rollouts of any trainer and engine, in batches of ragged arrays: what can be read as numbers is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from klbench import inputs
from klbench.rollouts import names, values
from klbench.rollouts.containers import Chunk, Container, container
from klbench.types import ConfigError


@dataclass(frozen=True)
class Batch:
    """Some rollouts, all their tokens one after the other.

    Parameters
    ----------
    offsets
        ``(n + 1,)``, int64: rollout ``i`` has the tokens ``offsets[i]:offsets[i + 1]``; an empty response has none.
    columns
        Log-probabilities by role, ``(tokens,)`` float64, NaN where they are missing: ``policy``, ``sampler``, ``old``,
        ``reference``; and ``kl`` and ``kl_pq`` where the file has them. A role that the file has not is not there.
    tokens
        Token ids, ``(tokens,)`` int64, -1 where unknown.
    texts
        The texts of tokens, only where they were asked for.
    mask
        Which tokens count, ``(tokens,)`` bool.
    prompt
        A number for each rollout that is the same where prompts are, ``(n,)`` int64.
    reward, step, version
        Of each rollout, float64 and int64 (-1 where unknown).
    where
        The row of each rollout in the file, counted from 0.
    file
        The name of the file.
    findings
        What was odd about these rows, in words, with the first row of each kind.
    """

    offsets: np.ndarray
    columns: Mapping[str, np.ndarray]
    tokens: np.ndarray | None
    texts: list[str] | None
    mask: np.ndarray
    prompt: np.ndarray | None
    reward: np.ndarray | None
    step: np.ndarray | None
    version: np.ndarray | None
    where: np.ndarray
    file: str
    findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """What is known of rollouts before they are read on.

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
    paired
        Whether rollouts come in pairs, the chosen one first and the rejected one next (``chosen_*`` and ``rejected_*``).
    """

    files: tuple[str, ...]
    columns: Mapping[str, str]
    layout: str
    notes: tuple[str, ...]
    findings: tuple[str, ...]
    paired: bool = False
    sources: tuple[Container, ...] = field(default=(), repr=False)
    text: bool = False

    def batches(self, tokens: int = 2**20) -> Iterator[Batch]:
        """Return all rollouts in order, about so many tokens at a time."""
        for file, source in zip(self.files, self.sources, strict=True):
            for chunk in source.chunks(set(self.columns.values()), tokens):
                yield _batch(self, file, chunk)


def prompt_id(value: Any) -> int:
    """Return the number of a prompt: text, messages, token ids or a number."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    return int.from_bytes(
        hashlib.sha256(json.dumps(value, default=repr).encode()).digest()[:7], "little"
    )


def _batch(reading: Reading, file: str, chunk: Chunk) -> Batch:
    roles = [role for role in (*names.LOG_PROBS, *names.EXACT) if role in reading.columns]
    read = {role: values.ragged(chunk.columns[reading.columns[role]]) for role in roles}
    findings: list[str] = []
    lengths = np.max([each.lengths for each in read.values()], axis=0)
    left = np.zeros(chunk.rows, dtype=bool)
    for role, each in read.items():
        name = reading.columns[role]
        for row, came in list(each.wrong.items())[:1]:
            findings.append(
                f"{file} row {chunk.start + row + 1:,}: {name} must be a list of numbers, "
                f"got {came} ({len(each.wrong)} such rows)"
            )
        short = np.flatnonzero(
            (each.lengths != lengths) & ~np.isin(np.arange(chunk.rows), list(each.wrong))
        )
        if short.size:
            row = int(short[0])
            findings.append(
                f"{file} row {chunk.start + row + 1:,}: {name} has {each.lengths[row]} tokens, "
                f"others {lengths[row]} ({short.size} such rows)"
            )
        left |= lengths - each.lengths > 1
    lengths = np.where(left, 0, lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    columns = {role: _laid(each, lengths, np.nan) for role, each in read.items()}
    total = int(offsets[-1])
    mask = np.zeros(total, dtype=bool)
    for column in columns.values():
        mask |= ~np.isnan(column)
    if "mask" in reading.columns:
        given = values.ragged(chunk.columns[reading.columns["mask"]])
        mask &= _laid(given, lengths, 0.0) > 0.0
    tokens = None
    if "tokens" in reading.columns:
        ids = _laid(values.ragged(chunk.columns[reading.columns["tokens"]]), lengths, np.nan)
        tokens = np.where(np.isfinite(ids), ids, -1.0).astype(np.int64)

    def scalars(role: str, whole: bool) -> np.ndarray | None:
        if role not in reading.columns:
            return None
        each = values.ragged(chunk.columns[reading.columns[role]])
        result = np.full(chunk.rows, np.nan)
        one = each.lengths == 1
        result[one] = each.values[np.repeat(one, each.lengths)]
        return np.where(np.isfinite(result), result, -1.0).astype(np.int64) if whole else result

    prompt = chunk.columns.get(reading.columns.get("prompt", ""))
    if prompt is not None:
        prompt = prompt if isinstance(prompt, list) else prompt.to_pylist()
        prompt = np.array([prompt_id(each) for each in prompt], dtype=np.int64)
    return Batch(
        offsets, columns, tokens, None, mask, prompt,
        scalars("reward", False), scalars("step", True), scalars("version", True),
        chunk.start + np.arange(chunk.rows), file, tuple(findings),
    )  # fmt: skip


def _laid(each: values.Ragged, lengths: np.ndarray, fill: float) -> np.ndarray:
    """Lay a column out in rows of these lengths, from the first token on, and fill what is missing."""
    if np.array_equal(each.lengths, lengths):
        return each.values
    result = np.full(int(lengths.sum()), fill)
    kept = np.minimum(each.lengths, lengths)
    begins, to = np.cumsum(each.lengths) - each.lengths, np.cumsum(lengths) - lengths
    within = np.arange(int(kept.sum())) - np.repeat(np.cumsum(kept) - kept, kept)
    result[np.repeat(to, kept) + within] = each.values[np.repeat(begins, kept) + within]
    return result


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
    if isinstance(source, pd.DataFrame):
        files: tuple[str, ...] = ("frame",)
        sources: tuple[Container, ...] = (container(source),)
    else:
        paths = [Path(each) for each in ([source] if isinstance(source, str | Path) else source)]
        for path in paths:
            if (kind := inputs.kind(path)) != inputs.FILE:
                raise ConfigError(f"{path}: {kind}")
        files, sources = tuple(path.name for path in paths), tuple(map(container, paths))
    available = sources[0].names
    columns, notes = names.found(available, names.checked(mapping or {}, available, files[0]))
    if sum(role in columns for role in names.LOG_PROBS) < 2:
        raise ConfigError(
            f"{files[0]}: expected two columns of log-probabilities at least, of {', '.join(names.LOG_PROBS)}; "
            f"columns are {names.listed(available)}"
        )
    first = next(sources[0].chunks(set(columns.values()), 2**12))
    kinds = {
        values.ragged(first.columns[columns[r]]).lengths.max(initial=0)
        for r in names.LOG_PROBS
        if r in columns
    }
    layout = "sums" if kinds == {1} else "lists"
    return Reading(files, columns, layout, tuple(notes), (), sources=sources, text=text)
