"""Rewards that a program gives to a text.

Bounded, cheap, and easy enough for a small model to learn within minutes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from klbench.registry import unknown
from klbench.types import ConfigError

_LETTERS = re.compile(r"[A-Za-z]")
_VOWELS = re.compile(r"[AEIOUaeiou]")
_WORDS = re.compile(r"[A-Za-z]+")
LONGEST = 10
"""Letters of a word beyond which it is no longer for ``long_words``."""


@dataclass(frozen=True)
class Written:
    """One completion: its text without special tokens, how many tokens count, and how many there
    could have been.
    """

    text: str
    tokens: int
    most: int


Reward = Callable[[Written], float]
"""A completion's reward, in [0, 1]."""


def vowels(written: Written) -> float:
    """The share of letters that are vowels, of as many letters as there could have been tokens at
    least.

    English has about 0.38. The least number of letters keeps a single "a" from being the best text
    there is.
    """
    letters = len(_LETTERS.findall(written.text))
    return len(_VOWELS.findall(written.text)) / max(letters, written.most)


def long_words(written: Written) -> float:
    """The mean length of words in units of 10 letters, 1 at most; 0 without words."""
    words = _WORDS.findall(written.text)
    return min(1.0, sum(map(len, words)) / len(words) / LONGEST) if words else 0.0


def short(written: Written) -> float:
    """The share of the tokens there could have been that were not needed.

    1 for the earliest end there is.
    """
    return 1.0 - (written.tokens - 1) / max(1, written.most - 1)


def target_length(tokens: float) -> Reward:
    """``1 - |tokens - target| / most``, 0 at least."""

    def close(written: Written) -> float:
        return max(0.0, 1.0 - abs(written.tokens - tokens) / written.most)

    return close


REWARDS: dict[str, Reward] = {each.__name__: each for each in (vowels, long_words, short)}
"""The rewards by name.

One more is one more function here; ``length:N`` stands beside them, since it takes a number.
"""


def names() -> list[str]:
    """All of them."""
    return [*REWARDS, "length:N"]


def get(name: str) -> Reward:
    """The reward of that name.

    Raises
    ------
    ConfigError
        No such reward, or its number is not one.
    """
    kind, colon, number = name.partition(":")
    if kind == "length" and colon:
        if not number.isdecimal() or int(number) < 1:
            raise ConfigError(
                f"reward {name!r}: expected a number of tokens, 1 or more, after the colon, such as"
                " length:12"
            )
        return target_length(int(number))
    if name not in REWARDS:
        raise unknown("reward", name, names())
    return REWARDS[name]
