"""The options of a trainer, and the reading of given ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from klbench.registry import unknown
from klbench.types import ConfigError

Value = bool | float | str | None


@dataclass(frozen=True)
class Option:
    """An option of a trainer.

    Parameters
    ----------
    path
        Its name as the trainer spells it, dots and all; any end of it that is no other option's is
        enough.
    default, before
        Its default; and the ones it had before a version, as ``((version, default), ...)``, the
        oldest first.
    values
        What it may be; empty: any number.
    switch
        The option that must be on for this one to matter. Who gives this one and not the switch is
        taken to have it on.
    formerly
        Other names of it, those of earlier versions.
    since
        The version that brought it.
    unset
        The words, or numbers, that switch a number off, and the number that does as much.
    like
        The option whose number it has where it is none.
    """

    path: str
    default: Value
    values: tuple[Value, ...] = ()
    switch: str = ""
    formerly: tuple[str, ...] = ()
    before: tuple[tuple[str, Value], ...] = ()
    since: str = ""
    unset: Mapping[Value, Value] = field(default_factory=dict)
    like: str = ""

    def default_at(self, version: str) -> Value:
        """The default of a version."""
        return next(
            (value for bound, value in self.before if not at_least(version, bound)), self.default
        )

    def taken(self, trainer: str, value: Value) -> Value:
        """The value as the trainer takes it: text is read, as a shell or a YAML file has it.

        Raises
        ------
        ConfigError
            The option cannot be this.
        """
        read = _read(value) if isinstance(value, str) else value
        if not self.values:
            if read in self.unset:
                return self.unset[read]
            if isinstance(read, bool) or not isinstance(read, int | float):
                raise ConfigError(f"{trainer}: {self.path} is a number, got {value!r}")
            return float(read)
        for allowed in self.values:
            if allowed == read and isinstance(allowed, bool) == isinstance(read, bool):
                return allowed
        raise unknown(f"{self.path} of {trainer}", str(value), map(str, self.values))


def read_words(words: Sequence[str]) -> dict[str, Value]:
    """Options from the words of a command.

    ``key=value``, ``--key value``, ``--key=value`` or, for a switch, ``--key``.

    Raises
    ------
    ConfigError
        A word is none of these, or an option is given twice.
    """
    found: dict[str, Value] = {}
    rest = list(words)
    while rest:
        key, equals, value = rest.pop(0).partition("=")
        if not equals:
            if not key.startswith("--"):
                raise ConfigError(f"expected key=value or --key value, got {key!r}")
            value = (
                rest.pop(0)
                if rest and not rest[0].startswith("--") and "=" not in rest[0]
                else "true"
            )
        if key in found:
            raise ConfigError(f"option {key} is given twice")
        found[key] = value
    return found


def _read(text: str) -> Value:
    words: dict[str, Value] = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return float(text)
    except ValueError:
        return text


@cache
def numbers_of(version: str) -> tuple[int, ...]:
    """Return the numbers of a version."""
    return tuple(map(int, re.findall(r"\d+", version)))


def at_least(version: str, bound: str) -> bool:
    """Return whether a version is not below another.

    Only as many numbers count as both have: 0.9 may be 0.9.1.
    """
    a, b = numbers_of(version), numbers_of(bound)
    count = min(len(a), len(b))
    return a[:count] >= b[:count]


@cache
def within(version: str, since: str, until: str) -> bool:
    """Return whether a version is between two others; empty: no bound."""
    return (not since or at_least(version, since)) and (not until or at_least(until, version))
