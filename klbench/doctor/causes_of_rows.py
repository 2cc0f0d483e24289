"""Faults of rows: padding that counts, and end tokens that do not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from klbench.doctor.findings import Cause
from klbench.doctor.kept import Kept

PADDED_ROWS = 0.02
"""Rows with padding at the end are at least this share, and three, where padding is counted."""
FILLERS = (0.0, 1.0)


def _runs(values: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return starts, sizes and whether each ends its row, of runs of equal values within rows."""
    change = np.ones(values.size, dtype=bool)
    change[1:] = (values[1:] != values[:-1]) | (row[1:] != row[:-1])
    start = np.flatnonzero(change)
    size = np.diff(start, append=values.size)
    end = start + size
    closes = np.ones(start.size, dtype=bool)
    closes[:-1] = row[end[:-1]] != row[end[:-1] - 1]
    return start, size, closes


def padding(kept: Kept) -> Iterator[Cause]:
    """Recognise tokens at the ends of rows that fill them up, and count."""
    counted = kept.counted
    rows = int((counted.counts > 0).sum())
    if rows < 3 or counted.row.size < 2 * rows:
        return
    enough = max(3.0, PADDED_ROWS * rows)
    signals = dict(counted.columns)
    if counted.tokens is not None:
        signals["tokens"] = counted.tokens
    for name, values in signals.items():
        start, size, closes = _runs(values, counted.row)
        least = np.where(np.isin(values[start], FILLERS) | (values[start] <= -100.0), 2, 3)
        if name == "tokens":
            least = np.full(start.size, 3)
        long = size >= least
        filled = long & closes
        inside = np.sum(long & ~closes) / max(np.sum(~closes), 1)
        share = filled.sum() / rows
        if filled.sum() < enough or share < 5.0 * inside + PADDED_ROWS:
            continue
        fill, times = np.unique(values[start[filled]], return_counts=True)
        common = times.max() / times.sum()
        if common < 0.8:
            continue
        tokens = int(size[filled].sum())
        what = (
            f"id {int(fill[times.argmax()])}" if name == "tokens" else f"{fill[times.argmax()]:.6g}"
        )
        yield Cause(
            "padding_counted",
            0.97,
            f"{filled.sum():,} of {rows:,} rows end in the same {what} again and again in "
            f"{name}: {tokens:,} tokens "
            f"({tokens / counted.row.size:.0%}) that no mask leaves out",
            fault=True,
        )
        return


def end_token(kept: Kept) -> Iterator[Cause]:
    """Recognise rollouts that end before the longest does, and not in a token that ends them.

    A token that ends rollouts stands nowhere else, or is the last one of nearly all.
    """
    counted = kept.counted
    if counted.tokens is None:
        return
    longest = int(counted.counts.max(initial=0))
    short = np.flatnonzero((counted.counts > 0) & (counted.counts < longest - 1))
    if short.size < 6 or longest < 4:
        return
    last = np.cumsum(counted.counts)[short] - 1
    ids, times = np.unique(counted.tokens[last], return_counts=True)
    commonest = times.argsort()[::-1][:5]
    common = times[commonest]
    everywhere = np.array([int(np.sum(counted.tokens == each)) for each in ids[commonest]])
    ending = float(common[(common >= 0.98 * everywhere) & (common >= 2)].sum()) / short.size
    first = float(times.max()) / short.size
    after = _first_left_out(kept, short)
    if ending > 0.7 or (first > 0.9 and after is None):
        return
    yield Cause(
        "end_token_dropped",
        0.75 if after is None else 0.9,
        f"{short.size:,} rollouts are shorter than the longest, and only {ending:.0%} of them "
        "end in a token that stands at ends "
        f"alone{'' if after is None else f'; the mask leaves out id {after} after them'}",
    )


def _first_left_out(kept: Kept, short: np.ndarray) -> int | None:
    """Return the id that the mask leaves out after nearly all of these rollouts, if any."""
    if kept.tokens is None:
        return None
    begins = np.cumsum(kept.lengths) - kept.lengths
    last = np.zeros(kept.lengths.size, dtype=np.int64)
    places = np.flatnonzero(kept.mask)
    last[kept.every_row[places]] = places
    after = last[short] + 1
    close = begins[short] + kept.lengths[short]
    there = after < close
    padded = after + 1 < close  # and what follows is the same again: it fills the row
    padded[padded] = kept.tokens[after[padded]] == kept.tokens[after[padded] + 1]
    there &= ~padded
    if there.mean() < 0.8:
        return None
    ids, times = np.unique(kept.tokens[after[there]], return_counts=True)
    return int(ids[times.argmax()]) if times.max() > 0.8 * there.sum() else None
