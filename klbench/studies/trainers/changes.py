"""The differences of releases, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from klbench.rows import Row, distinct, where
from klbench.studies.trainers.columns import NOTHING, YES, version_key

CHANGED = {
    "identified": "its values are {new}, they were {old}",
    "combination": "its gradient is {new}, it was {old}",
    "matches": "its expected gradient is that of {new}, it was that of {old}",
}
"""The columns with one word, in which a function can change, and the words for it."""
TOLD = ("clamp", "dead", "nonfinite", "precision", "masking", "status")
"""Those with sentences."""


def changes(rows: Sequence[Row], defaults: Sequence[Row]) -> list[Row]:
    """Return a row for each difference of a release from the one before it."""
    found = []
    for library in distinct(rows, "library"):
        ordered = sorted(distinct(where(rows, library=library), "version"), key=version_key)
        for before, now in pairwise(ordered):
            old, new = (
                [where(table, library=library, version=each) for table in (rows, defaults)]
                for each in (before, now)
            )
            words = [
                *_penalty(old[0], new[0]),
                *_options(old[1], new[1]),
                *_functions(old[0], new[0]),
            ]
            found += [
                {
                    "library": library,
                    "version": now,
                    "before": before,
                    "what": what,
                    "change": change,
                }
                for what, change in words or [(NOTHING, _nothing(new[0]))]
            ]
    return found


def gradient(row: Row) -> str:
    """Return whose gradient a function has on average."""
    if row["matches"] in ("none", ""):
        return "that of no KL"
    if row["matches"] == "0":
        return "0, which pulls to no reference"
    each = ", each token for itself" if row["gradient_level"] == "token" else ""
    return f"that of {row['matches']}{each}"


def _default(rows: Sequence[Row]) -> Row | None:
    return next((row for row in rows if row["default"] == YES and row["matches"]), None)


def _penalty(old: Sequence[Row], new: Sequence[Row]) -> Iterator[tuple[str, str]]:
    before, now = _default(old), _default(new)
    if before is None or now is None or before["combination"] == now["combination"]:
        return
    was, is_now = gradient(before), gradient(now)
    words = f"is still {is_now}" if was == is_now else f"changed from {was} to {is_now}"
    named = f"the default penalty is {now['combination']}, it was {before['combination']}"
    yield "penalty", f"{named}; its gradient {words}"


def _options(old: Sequence[Row], new: Sequence[Row]) -> Iterator[tuple[str, str]]:
    was, is_now = (
        {(row["trainer"], row["option"]): row["default"] for row in rows} for rows in (old, new)
    )
    for trainer, option in dict.fromkeys([*was, *is_now]):
        key = (trainer, option)
        if key not in was:
            yield "option", f"{trainer}: new option {option}, by default {is_now[key]}"
        elif key not in is_now:
            yield "option", f"{trainer}: option {option} is gone"
        elif was[key] != is_now[key]:
            yield "default", f"{trainer}: {option} is {is_now[key]} by default, it was {was[key]}"


def _functions(old: Sequence[Row], new: Sequence[Row]) -> Iterator[tuple[str, str]]:
    was, is_now = (
        {f"{row['function']} {row['options']}".strip(): row for row in rows} for rows in (old, new)
    )
    for name in dict.fromkeys([*was, *is_now]):
        if name not in was or name not in is_now:
            yield "function", f"{name} is {'new' if name in is_now else 'gone'}"
            continue
        for column in (*CHANGED, *TOLD):
            a, b = was[name][column], is_now[name][column]
            if a != b and column in CHANGED:
                words = CHANGED[column].format(old=a or "none", new=b or "none")
                yield "function", f"{name}: {words}"
            elif a != b:
                words = "; ".join(filter(None, (b and f"now {b}", a and f"no longer {a}")))
                yield "function", f"{name}: {words}"


def _nothing(new: Sequence[Row]) -> str:
    row = _default(new)
    if row is None:
        return "no KL option computes anything else"
    return (
        "no KL option computes anything else: the default penalty is still"
        f" {row['combination']}, its gradient {gradient(row)}"
    )
