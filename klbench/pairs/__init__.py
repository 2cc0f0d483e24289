"""Policy/reference pairs, each with its truth.

A pair is one class in one file: its fields are the options of the configuration, checked when it is
built.
"""

from __future__ import annotations

from klbench.pairs._base import Pair
from klbench.registry import Registry

registry: Registry[type[Pair]] = Registry("pair", __name__)


def register(cls: type[Pair]) -> type[Pair]:
    """Register a pair class under its ``kind``."""
    return registry.add(cls.kind, cls)


def names() -> list[str]:
    """The names of all pairs."""
    return registry.names()


def get(name: str) -> type[Pair]:
    """The pair class of that name.

    Raises
    ------
    klbench.types.ConfigError
        No such name.
    """
    return registry.get(name)


__all__ = ["Pair", "get", "names", "register", "registry"]
