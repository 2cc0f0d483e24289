"""Columns of any kind as ragged numbers.

Arrow's lists at once, Python's objects one by one where they must be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from klbench.rollouts import engines

UNREADABLE = (TypeError, ValueError, OverflowError, KeyError, IndexError, AttributeError)


@dataclass(frozen=True)
class Ragged:
    """Lists of numbers, one a row.

    Float64, all one after the other, the length of each, and what could not be read.

    ``wrong`` says by row what came in place of numbers; such a row has length 0. ``nested`` is
    whether rows are lists.
    """

    values: np.ndarray
    lengths: np.ndarray
    wrong: dict[int, str]
    nested: bool = True

    @property
    def begins(self) -> np.ndarray:
        return np.cumsum(self.lengths) - self.lengths

    @classmethod
    def of(cls, pieces: Sequence[np.ndarray], wrong: dict[int, str] | None = None) -> Ragged:
        """Join one array a row."""
        lengths = np.array([piece.size for piece in pieces], dtype=np.int64)
        return cls(np.concatenate([np.empty(0), *pieces]), lengths, wrong or {})

    def interleaved(self, other: Ragged) -> Ragged:
        """Return rows of this and of another in turn."""
        pairs = zip(self.pieces(), other.pieces(), strict=True)
        wrong = {2 * row: said for row, said in self.wrong.items()}
        wrong |= {2 * row + 1: said for row, said in other.wrong.items()}
        joined = Ragged.of([piece for pair in pairs for piece in pair], wrong)
        return Ragged(joined.values, joined.lengths, wrong, self.nested)

    def pieces(self) -> list[np.ndarray]:
        return np.split(self.values, np.cumsum(self.lengths)[:-1])


def _shown(value: Any, most: int = 40) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def _numeric(kind: Any) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)


def arrow(column: pa.Array, flags: bool = True) -> Ragged | None:
    """Return a column of lists of numbers, or of numbers, each a list of one.

    None where it holds anything else; ``flags`` as in :func:`ragged`.
    """
    kind = column.type
    nested = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if pa.types.is_fixed_size_list(kind):
        column, nested = column.cast(pa.large_list(kind.value_type)), True
    inner = kind.value_type if nested else kind
    if not _numeric(inner) or (pa.types.is_boolean(inner) and not flags):
        return None
    missing = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
    if nested:
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        values = pc.list_flatten(column)
    else:
        lengths = np.ones(len(column), dtype=np.int64)
        lengths[missing] = 0
        values = column.drop_null()
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return Ragged(
        numbers, lengths.astype(np.int64), dict.fromkeys(missing.tolist(), "null"), nested
    )


def _at_once(column: Sequence[Any], flags: bool) -> Ragged | None:
    """Return lists of plain numbers, or plain numbers, without a look at each.

    None where there is anything else.
    """
    nested = any(isinstance(value, Sequence | np.ndarray) for value in column)
    try:
        if not flags and _flagged(column, nested):
            return None
        if not nested:
            values = np.array(column, dtype=np.float64)
            missing = [row for row, value in enumerate(column) if value is None]
            lengths = np.ones(len(column), dtype=np.int64)
            lengths[missing] = 0
            kept = np.delete(values, missing)
            return Ragged(kept, lengths, dict.fromkeys(missing, "null"), False)
        if any(isinstance(value, str) for value in column):
            return None
        lengths = np.fromiter(map(len, column), dtype=np.int64, count=len(column))
        if all(isinstance(value, np.ndarray) and value.ndim == 1 for value in column):
            values = np.concatenate(column).astype(np.float64)
        else:
            values = np.array(list(chain.from_iterable(column)), dtype=np.float64)
    except UNREADABLE:
        return None
    return Ragged(values, lengths, {}) if values.ndim == 1 else None


def _flagged(column: Sequence[Any], nested: bool) -> bool:
    """True where there is a true or a false among the numbers."""
    arrays = [each.dtype.kind for each in column if isinstance(each, np.ndarray)]
    flat = chain.from_iterable(column) if nested and not arrays else column
    return "b" in arrays or bool in set(map(type, flat))


def python(
    column: Sequence[Any],
    unpacked: Callable[[Any, int], Sequence[float]] | None = None,
    flags: bool = True,
) -> Ragged:
    """Return a column of Python's objects, a row's by ``unpacked(value, row)`` where it is no
    list of plain numbers; ``flags`` as in :func:`ragged`.
    """
    if unpacked is None and (quick := _at_once(column, flags)) is not None:
        return quick
    if unpacked is None and all(map(engines.batch_of_one, column)):
        return python([value[0] for value in column], flags=flags)
    unpacked = unpacked or (lambda value, row: engines.numbers(value, flags=flags))
    pieces, wrong = [], {}
    for row, value in enumerate(column):
        try:
            piece = np.array(unpacked(value, row), dtype=np.float64)
        except UNREADABLE:
            piece, wrong[row] = np.empty(0), "null" if value is None else _shown(value)
        pieces.append(piece.reshape(-1))
    return Ragged.of(pieces, wrong)


def ragged(column: Any, flags: bool = True) -> Ragged:
    """Return a column, Arrow's or a list of Python's objects, as numbers.

    ``flags`` is whether true and false are numbers: in a mask they are, and no log-probabilities.
    """
    quick = arrow(column, flags) if isinstance(column, pa.Array) else None
    return python(listed(column), flags=flags) if quick is None else quick


def listed(column: Any) -> list[Any]:
    """Return a column as Python's objects."""
    return column.to_pylist() if isinstance(column, pa.Array) else list(column)
