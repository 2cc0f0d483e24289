"""Sequences in batches: a batch that does not fit into memory is halved."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from klbench.lm.quiet import quiet
from klbench.types import Notice, RunError

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass
class Batch:
    """Sequences at a time, of call after call.

    What did not fit into memory once is not tried again.
    """

    size: int


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` means that memory ran out, on a GPU or off it."""
    return isinstance(error, MemoryError) or any(
        words in str(error).lower() for words in _OUT_OF_MEMORY
    )


def in_batches(
    work: Callable[[Sequence[int]], None], lengths: Sequence[int], batch: int | Batch
) -> None:
    """Call ``work`` with the indices of every batch, sequences of a like length together.

    A :class:`Batch` remembers what fits.

    ``work`` may be called again with a part of what it failed at for want of memory; that is said
    in a :class:`Notice`.

    Raises
    ------
    RunError
        Not even one sequence fits.
    """
    fits = batch if isinstance(batch, Batch) else Batch(batch)
    asked = fits.size
    with quiet():
        fits.size = _all_in_batches(work, lengths, asked)
    if fits.size < asked:
        warnings.warn(
            f"out of memory with {asked} sequences at a time; went on with {fits.size}",
            Notice,
            stacklevel=3,
        )


def _all_in_batches(
    work: Callable[[Sequence[int]], None], lengths: Sequence[int], batch: int
) -> int:
    order = sorted(
        range(len(lengths)), key=lambda i: -lengths[i]
    )  # what does not fit shows at once
    start = 0
    while start < len(order):
        chosen = order[start : start + batch]
        try:
            work(chosen)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(chosen) == 1:
                raise RunError(
                    f"out of memory with a single sequence of {lengths[chosen[0]]} tokens"
                ) from None
            short = True
        else:
            short = False
        if short:  # after the handler, whose traceback would hold on to what did not fit
            batch = len(chosen) // 2
            _free()
        else:
            start += len(chosen)
    return batch


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
