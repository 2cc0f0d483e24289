"""The base of the readers of recorded rollouts: the columns present, and errors that name a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from klbench.types import ConfigError

NEEDED = ("logprobs", "ref_logprobs")
MASKS = ("mask", "response_mask", "completion_mask", "action_mask", "loss_mask")
"""The names that trainers give the column that says which tokens count."""
KNOWN = (*NEEDED, "old_logprobs", *MASKS, "kl", "kl_pq", "tokens", "prompt")


@dataclass(frozen=True)
class Ragged:
    """Lists of numbers, one a row: all values one after the other, float64, and how many each row has."""

    values: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, pieces: Sequence[np.ndarray]) -> Ragged:
        """Join one array a row."""
        return cls(
            np.concatenate([np.empty(0), *pieces]),
            np.array([piece.size for piece in pieces], dtype=np.int64),
        )


@dataclass(frozen=True)
class Block:
    """Some rows of a file: its columns of one number a token, and what ``prompt`` holds, if it is there."""

    columns: dict[str, Ragged]
    prompt: Sequence[Any] | None


def one_line(error: Exception) -> str:
    """Return the message of a library's error, short enough to end a line of ours."""
    return " ".join(str(error).split())[:120] or type(error).__name__


class Reader(ABC):
    """A file of rollouts.

    Raises
    ------
    ConfigError
        It cannot be read, a column that is needed is missing, or a mask is there that is not read: one line with the file, the
        row and the column.

    Attributes
    ----------
    columns, unread
        The columns that are read, and those that are there beside them.
    mask
        The column that says which tokens count, if there is one.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        self.found = self._columns()
        missing = [name for name in NEEDED if name not in self.found]
        if missing:
            available = ", ".join(self.found[:20]) or "none"
            raise ConfigError(f"{self.name}: no column {missing[0]!r}; there are: {available}")
        self.columns = tuple(name for name in KNOWN if name in self.found)
        self.unread = tuple(name for name in self.found if name not in self.columns)
        self.mask = self._mask()

    def _mask(self) -> str | None:
        """A mask of another name must not be left out in silence: padding would be measured."""
        masks = [name for name in self.found if "mask" in name.lower()]
        if len(masks) > 1:
            raise ConfigError(
                f"{self.name}: columns {' and '.join(map(repr, masks[:4]))} may all say which tokens count; leave one, as mask"
            )
        if masks and masks[0] not in MASKS:
            raise ConfigError(
                f"{self.name}: column {masks[0]!r} is not read, though it may say which tokens count; name it mask if it is 1 "
                f"where a token of the completion counts and 0 elsewhere, or leave it out (read are {', '.join(MASKS)})"
            )
        return masks[0] if masks else None

    def fail(self, row: int, message: str) -> ConfigError:
        """An error about a row, counted from 0 here and from 1 in the message."""
        return ConfigError(f"{self.name} row {row + 1:,}: {message}")

    @abstractmethod
    def _columns(self) -> list[str]:
        """The names of the columns that are there."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """The number of rollouts."""

    @abstractmethod
    def read(self, start: int, n: int) -> Block:
        """Rows ``start`` to ``start + n``, or to the end."""
