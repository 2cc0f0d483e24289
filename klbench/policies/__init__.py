"""Small autoregressive policies over all sequences up to a horizon.

Their shapes, and the tree that enumerates them.

What settings need of them, names and sizes, is here and imports nothing heavy.
"""

from __future__ import annotations

from typing import Literal, Protocol

Name = Literal["table", "gru", "transformer"]
"""The model that computes the probabilities of the next token."""


def leaves(vocabulary: int, horizon: int) -> int:
    """Return how many sequences there are of ``vocabulary`` ordinary tokens and one that ends
    them, up to a horizon.
    """
    return sum(vocabulary**depth for depth in range(horizon + 1))


class Shape(Protocol):
    """Settings that name the size of a tree and the number of prompts."""

    @property
    def vocabulary(self) -> int: ...
    @property
    def horizon(self) -> int: ...
    @property
    def prompts(self) -> int: ...


def check_number(shape: Shape, number: int, what: str, most: int, purpose: str) -> None:
    """Refuse a shape with more sequences, or more of what is made of them, than a study can
    enumerate.

    Raises
    ------
    ValueError
        The keys that make ``number``, and that ``most`` is the largest for this purpose.
    """
    if number > most:
        raise ValueError(
            f"vocabulary={shape.vocabulary}, horizon={shape.horizon} and prompts={shape.prompts}"
            f" make {number:,} {what}, at most {most:,} {purpose}"
        )
