"""What the readers of recorded rollouts have in common: which columns there are, and errors that name a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from klbench.types import ConfigError

NEEDED = ("logprobs", "ref_logprobs")
PER_TOKEN = (*NEEDED, "old_logprobs", "mask", "kl", "kl_pq", "tokens")
KNOWN = (*PER_TOKEN, "prompt")


@dataclass(frozen=True)
class Ragged:
    """Lists of numbers, one a row: all values one after the other, float64, and how many each row has."""

    values: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True)
class Block:
    """Some rows of a file: its columns of one number a token, and what ``prompt`` holds, if it is there."""

    columns: dict[str, Ragged]
    prompt: Sequence[Any] | None


class Reader(ABC):
    """A file of rollouts.

    Raises
    ------
    ConfigError
        It cannot be read, or a column that is needed is missing: one line with the file, the row and the column.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        self.found = self._columns()
        missing = [name for name in NEEDED if name not in self.found]
        if missing:
            there = ", ".join(self.found[:20]) or "none"
            raise ConfigError(f"{self.name}: no column {missing[0]!r}; there are: {there}")
        self.columns = tuple(name for name in KNOWN if name in self.found)

    def fail(self, row: int, message: str) -> ConfigError:
        """An error about a row, counted from 0 here and from 1 in the message."""
        return ConfigError(f"{self.name} row {row + 1:,}: {message}")

    @abstractmethod
    def _columns(self) -> list[str]:
        """The names of the columns that are there."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """How many rollouts there are."""

    @abstractmethod
    def read(self, start: int, n: int) -> Block:
        """Rows ``start`` to ``start + n``, or to the end."""
