"""Columns of any kind as ragged numbers: Arrow's lists at once, Python's objects one by one where they must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Ragged:
    """Lists of numbers, one a row: float64, all one after the other, the length of each, and what could not be read.

    ``wrong`` says by row what came in place of numbers; such a row has length 0.
    """

    values: np.ndarray
    lengths: np.ndarray
    wrong: dict[int, str]


def _shown(value: Any, most: int = 40) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def arrow(column: pa.Array) -> Ragged | None:
    """Return a column of lists of numbers, or of numbers, each a list of one; None where it holds anything else."""
    kind = column.type
    nested = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if pa.types.is_fixed_size_list(kind):
        column, nested = column.cast(pa.large_list(kind.value_type)), True
    inner = kind.value_type if nested else kind
    if not (
        pa.types.is_floating(inner) or pa.types.is_integer(inner) or pa.types.is_boolean(inner)
    ):
        return None
    missing = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
    if nested:
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        values = pc.list_flatten(column)
    else:
        lengths = np.ones(len(column), dtype=np.int64)
        lengths[missing] = 0
        values = column.drop_null()
    values = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return Ragged(values, lengths.astype(np.int64), dict.fromkeys(missing.tolist(), "null"))


def python(
    column: Sequence[Any], unpacked: Callable[[Any], Sequence[Any]] = lambda value: value
) -> Ragged:
    """Return a column of Python's lists; ``unpacked`` makes a list of numbers of what is none yet."""
    try:
        lengths = np.fromiter(map(len, column), dtype=np.int64, count=len(column))
        flat = list(chain.from_iterable(column))
        if not any(isinstance(each[0], str | dict) for each in column if len(each)):
            values = np.array(flat, dtype=np.float64)
            if values.ndim == 1:
                return Ragged(values, lengths, {})
    except (TypeError, ValueError, OverflowError, KeyError):
        pass  # one of them at least is no list of numbers: each by itself
    pieces, wrong = [], {}
    for row, value in enumerate(column):
        try:
            piece = np.array(unpacked(value), dtype=np.float64)
        except (TypeError, ValueError, OverflowError, KeyError, IndexError, AttributeError):
            piece = None
        if piece is None or piece.ndim > 1 or value is None:
            wrong[row], piece = "null" if value is None else _shown(value), np.empty(0)
        pieces.append(piece.reshape(-1))
    lengths = np.array([piece.size for piece in pieces], dtype=np.int64)
    return Ragged(np.concatenate([np.empty(0), *pieces]), lengths, wrong)


def ragged(column: Any) -> Ragged:
    """Return a column, Arrow's or a list of Python's objects, as numbers."""
    if isinstance(column, pa.Array):
        quick = arrow(column)
        if quick is not None:
            return quick
        column = column.to_pylist()
    return python(column)
