"""The glossary: words that pages explain, from ``glossary.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

GRADIENTS = (
    "combination",
    "score",
    "in_the_loss",
    "in_the_reward",
    "straight_through",
    "semi_gradient",
    "full_kl",
    "baseline",
    "correction",
    "gradient_bias",
    "gradient_noise",
)
"""The keys that every page on gradients needs."""


@cache
def _glossary() -> dict[str, dict[str, str]]:
    return tomllib.loads((Path(__file__).parent / "glossary.toml").read_text(encoding="utf-8"))


def explained(keys: Iterable[str]) -> list[tuple[str, str]]:
    """Return each term once, with its meaning.

    Raises
    ------
    KeyError
        The glossary has no such key.
    """
    return [(_glossary()[key]["term"], _glossary()[key]["meaning"]) for key in dict.fromkeys(keys)]
