"""The settings of the peers study."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from klbench.types import Options


class PeersOptions(Options):
    """Settings of the comparison with other libraries.

    Parameters
    ----------
    tokens
        Log-probabilities that a function gets at once.
    rows, vocabulary
        Shape of the logits.
    repeats, seconds
        Timed rounds, in each of which every library has one block of calls that takes about so
        long.
    """

    tokens: int = Field(default=65_536, ge=16, le=2**24)
    rows: int = Field(default=64, ge=8, le=65_536)
    vocabulary: int = Field(default=32_000, ge=16, le=1_000_000)
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    repeats: int = Field(default=9, ge=3, le=1000)
    seconds: float = Field(default=0.02, gt=0.0, le=60.0)
