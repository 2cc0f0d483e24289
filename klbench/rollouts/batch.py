"""A batch of recorded rollouts: ragged arrays by role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Batch:
    """Some rollouts, all their tokens one after the other.

    Parameters
    ----------
    offsets
        ``(n + 1,)``, int64: rollout ``i`` has the tokens ``offsets[i]:offsets[i + 1]``; an empty
        response has none.
    columns
        Log-probabilities by role, ``(tokens,)`` float64, NaN where they are missing: ``policy``,
        ``sampler``, ``old``, ``reference``; and ``kl`` and ``kl_pq`` where the file has them. A
        role that the file has not is not there.
    tokens
        Token ids, ``(tokens,)`` int64, -1 where unknown.
    texts
        The texts of tokens, only where they were asked for and are there.
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
        What is odd about these rows, in words: the first row of each kind, and how many there are.
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


def part(batch: Batch, first: int, stop: int) -> Batch:
    """Return some rollouts of a batch, with all that is odd about it."""
    a, b = int(batch.offsets[first]), int(batch.offsets[stop])
    changed: dict[str, Any] = {"offsets": batch.offsets[first : stop + 1] - a}
    for each in fields(batch):
        value = getattr(batch, each.name)
        if each.name in ("tokens", "mask", "texts") and value is not None:
            changed[each.name] = value[a:b]
        elif each.name in ("prompt", "reward", "step", "version", "where") and value is not None:
            changed[each.name] = value[first:stop]
    columns = {role: column[a:b] for role, column in batch.columns.items()}
    return replace(batch, columns=columns, **changed)
